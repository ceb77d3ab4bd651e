"""FID against CLIP score over guidance scales (eDiff-I, figure 7): a curve for each model, one figure for a data set.

What cannot be a curve becomes what it can be: FID over guidance where there is no CLIP score, bars where there is one
setting. What has no place is named below the figure.
"""

from ediffi.evaluation.tradeoff.plan import Plan, plan
from ediffi.evaluation.tradeoff.plot import MatplotlibMissing, describe, draw, svg

__all__ = ["MatplotlibMissing", "Plan", "describe", "draw", "plan", "svg"]
