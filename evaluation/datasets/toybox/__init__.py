"""Toybox: a small world of coloured shapes: a grammar, a renderer, captions, and an oracle that reads pictures back.

Example:
    >>> (scene, caption), *_ = prompts(seed=0, count=3)
    >>> image = render(scene, 64)
    >>> reading = read(image)
    >>> score(scene, caption, reading).everything
    True
"""

from ediffi.evaluation.datasets.toybox.caption import (
    Caption,
    canonical,
    caption,
    ignored_words,
    prompts,
    tokens,
    vocabulary,
)
from ediffi.evaluation.datasets.toybox.oracle import Reading, Seen, read, read_batch
from ediffi.evaluation.datasets.toybox.render import render, silhouettes
from ediffi.evaluation.datasets.toybox.scene import (
    BACKGROUNDS,
    COLOURS,
    LAYOUTS,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Scene,
    held_out,
    novel_pair,
    sample_scene,
    specification,
)
from ediffi.evaluation.datasets.toybox.scoring import Score, accuracy, score

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "LAYOUTS",
    "SHAPES",
    "SIZES",
    "STYLES",
    "Caption",
    "Object",
    "Reading",
    "Scene",
    "Score",
    "Seen",
    "accuracy",
    "canonical",
    "caption",
    "held_out",
    "ignored_words",
    "novel_pair",
    "prompts",
    "read",
    "read_batch",
    "render",
    "sample_scene",
    "score",
    "silhouettes",
    "specification",
    "tokens",
    "vocabulary",
]
