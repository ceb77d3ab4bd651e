"""`ediffi studio`: a page to paint on, on this machine only."""
