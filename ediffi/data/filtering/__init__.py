"""From shards as they come to shards worth training on: measured, judged, written, and shown on a page."""
