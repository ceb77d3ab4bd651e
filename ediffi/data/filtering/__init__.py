"""Shards filtered by image size, CLIP score and aesthetic score: measured, filtered, written, and shown on a page."""
