"""The low-resolution input of super-resolution, degraded as real images are (Real-ESRGAN)."""
