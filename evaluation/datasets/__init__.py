"""Captioned images to evaluate on: COCO, Visual Genome, and two worlds with a ground truth, Toybox and emoji."""
