"""Low-resolution pictures as bad as those of the world: Real-ESRGAN's degradation."""
