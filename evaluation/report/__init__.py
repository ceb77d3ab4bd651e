"""Reports: one page with the numbers, the figure, pictures, and all that is needed to repeat it; nothing is loaded."""

from ediffi.evaluation.report.page import FILE, compare, write
from ediffi.evaluation.report.samples import Sample, judged

__all__ = ["FILE", "Sample", "compare", "judged", "write"]
