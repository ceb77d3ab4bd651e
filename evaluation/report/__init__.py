"""Reports: one page with the numbers, the figure, images, and everything that is needed to repeat them."""

from ediffi.evaluation.report.gallery import ReportSample
from ediffi.evaluation.report.page import FILE, compare, judged_sample, write

__all__ = ["FILE", "ReportSample", "compare", "judged_sample", "write"]
