"""Compositional benchmarks that other people score: their prompts come in, pictures go out in the folders they read."""
