"""Metrics of images: Fréchet distance, KID, precision and recall, CLIP score; one pass over the images for all."""
