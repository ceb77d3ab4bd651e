"""Captioned images to evaluate on: COCO, Visual Genome, and Toybox, a rendered world with a ground truth."""
