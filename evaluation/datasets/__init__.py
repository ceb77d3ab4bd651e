"""Captioned pictures to be judged on: COCO, Visual Genome, and Toybox, a rendered world with a ground truth."""
