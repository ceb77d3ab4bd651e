"""Toybox: a small world of coloured shapes: a grammar, a renderer, captions, and an oracle that reads images back.

Example:
    >>> (scene, caption), *_ = prompts(seed=0, count=3)
    >>> image = render(scene, 64)
    >>> score(scene, caption, read(image)).everything
    True
"""

from ediffi.evaluation.datasets.toybox.caption import NAMEABLE, Caption, Length, caption, prompts, tokens, vocabulary
from ediffi.evaluation.datasets.toybox.oracle import DetectedObject, Reading, Score, accuracy, read, score
from ediffi.evaluation.datasets.toybox.render import render
from ediffi.evaluation.datasets.toybox.scene import (
    BACKGROUNDS,
    COLOURS,
    LAYOUTS,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Scene,
    Split,
    held_out,
    sample_scene,
)

# fmt: off
__all__ = [
    "BACKGROUNDS", "COLOURS", "LAYOUTS", "NAMEABLE", "SHAPES", "SIZES", "STYLES", "Caption", "DetectedObject",
    "Length", "Object", "Reading", "Scene", "Score", "Split", "accuracy", "caption", "held_out", "prompts", "read",
    "render", "sample_scene", "score", "tokens", "vocabulary",
]
