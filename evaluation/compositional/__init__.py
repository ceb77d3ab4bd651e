"""Compositional benchmarks whose authors score: read their prompt files, write the folders that their scripts read."""
