"""Scorers: how well images fit their captions, as a model of people's preferences, or any function, says.

A scorer is `scorer(images, captions) -> [n]`, a number for each RGB image, more is better. Its factory is registered by
`register`, or by the entry-point group `ediffi.scorers` of any package; a suite names it: `scorers: {pickscore: {}}`.
A scorer with the attribute `pairs = True` is `scorer(images, others) -> [n]`: how much two images differ.
"""

from ediffi.evaluation.scorers.answers import vqascore
from ediffi.evaluation.scorers.lpips import lpips_diversity
from ediffi.evaluation.scorers.named import NamedScorer, Scorer, load, register, scorers
from ediffi.evaluation.scorers.preference import hpsv2, pickscore

__all__ = [
    "NamedScorer",
    "Scorer",
    "hpsv2",
    "load",
    "lpips_diversity",
    "pickscore",
    "register",
    "scorers",
    "vqascore",
]
