"""Models on the Hub: where they are, how they come here, how they get there."""
