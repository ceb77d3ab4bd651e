"""FID against CLIP score over guidance scales (eDiff-I, figure 7): a curve for each model, one figure for a dataset.

Without CLIP scores FID is drawn over guidance, and a single setting is a bar. Points that cannot be drawn are named
below the figure.
"""

from ediffi.evaluation.tradeoff.plan import FigurePlan, plan
from ediffi.evaluation.tradeoff.plot import MatplotlibMissing, describe, draw, svg

__all__ = ["FigurePlan", "MatplotlibMissing", "describe", "draw", "plan", "svg"]
