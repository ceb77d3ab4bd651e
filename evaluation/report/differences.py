"""How sure a difference between systems is: each against the first one, on the same captions, image by image."""

from collections.abc import Sequence
from typing import NamedTuple

from ediffi.evaluation.metrics.paired import differences
from ediffi.evaluation.naming import less_is_better, measured_name, metric_name, shown
from ediffi.evaluation.report.gallery import headline_point
from ediffi.evaluation.report.stored import StoredEvaluation


class DifferenceCell(NamedTuple):
    """A difference of one metric."""

    name: str  # of the metric, "kid_mean"
    title: str  # with an arrow to the better side
    text: str  # with its sign
    value: str  # all digits
    spread: str  # its interval
    p_value: str  # "p = 0.012"
    clear: bool  # whether its interval leaves out 0


class DifferenceTable(NamedTuple):
    """The differences of all systems to the first one."""

    first: str  # "ours, guidance 3"
    rows: Sequence[tuple[str, Sequence[DifferenceCell]]]


def difference_table(several: Sequence[StoredEvaluation]) -> DifferenceTable | str | None:
    """The differences to the first of several systems, each at its `headline_point`; in a sentence why they are not
    known; None of fewer than two systems, or of evaluations without captions."""
    if len(several) < 2 or not all(one.captions for one in several):
        return None
    first, *others = [(one, headline_point(one.results)) for one in several]
    rows = []
    try:
        for one, point in others:
            mine, theirs = (s.folder / "rows" / p.name for s, p in ((one, point), first))
            found = differences(mine, theirs)
            cells = []
            for name, apart in found.items():
                title = f"{metric_name(name) if '/' in name else measured_name(one.results, name).partition(',')[0]}"
                arrow = "↓" if less_is_better(name) else "↑"
                ends = " to ".join(_signed(name, end) for end in (apart.low, apart.high))
                p_value = "p < 0.001" if apart.p_value < 0.001 else f"p = {apart.p_value:.3f}"
                text = (name, f"{title} {arrow}", _signed(name, apart.value), repr(apart.value), ends, p_value)
                cells.append(DifferenceCell(*text, apart.clear))
            rows.append((one.results.title(point), cells))
    except (OSError, ValueError) as error:
        return f"The differences of the systems are not known: {error}."
    return DifferenceTable(first[0].results.title(first[1]), rows)


def _signed(name: str, value: float) -> str:
    """A difference with its sign, which a minus shows by itself: "+0.12", "-0.34"; a shown 0 has none."""
    text = shown(name, value)
    if not text.strip("-0."):
        return text.removeprefix("-")
    return text if text.startswith("-") else f"+{text}"
