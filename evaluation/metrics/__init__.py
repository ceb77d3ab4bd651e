"""What pictures come to: Fréchet distance, KID, precision and recall, CLIP score; one pass over them for all."""
