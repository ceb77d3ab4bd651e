"""Reports: one page with the numbers, the figure, images, and everything that is needed to repeat them."""

from ediffi.evaluation.report.page import FILE, compare, write
from ediffi.evaluation.report.samples import ReportSample, judged_sample

__all__ = ["FILE", "ReportSample", "compare", "judged_sample", "write"]
