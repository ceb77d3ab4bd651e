"""Numbers in rows and columns, with their intervals; the best ones, and those that cannot be told from them, marked."""

from collections.abc import Sequence
from typing import NamedTuple

from ediffi.evaluation.naming import distance, is_distance, less_is_better, measured_name, metric_name, shown
from ediffi.evaluation.results import Point, Results, flattened

ORDER = ("kid_mean", "cmmd", "precision", "recall", "density", "coverage", "f_score", "clip_score")
COLUMNS = 9
"""Metrics that a page of 1100 px has room for, with their intervals, beside model and setting."""


class Cell(NamedTuple):
    """A number of a table."""

    text: str  # the digits for people
    value: str = ""  # all digits; empty if there is no number
    best: bool = False  # the best of its column, or not to be told from it
    spread: str = ""  # its interval, "7.21 to 7.50"; or "± 0.0001", a standard deviation; or empty
    track: tuple[float, float, float] | None = None  # low end, high end and value of its interval, in % of the column's
    percent: float | None = None  # length of its bar, if it has one


class Column(NamedTuple):
    """A metric of a table."""

    name: str  # "fid"
    title: str  # "FID"
    arrow: str  # to the better side


class MetricTable(NamedTuple):
    """All settings of all models, a row each; `title` is empty for the table of metrics, or a kind of measures."""

    title: str
    columns: Sequence[Column]
    groups: Sequence[tuple[str, Sequence[tuple[Point, Sequence[Cell]]]]]


class Headline(NamedTuple):
    """The best number of a metric: "lowest FID", "7.35", all its digits, its interval, "guidance 3"."""

    metric: str
    name: str
    text: str
    value: str
    spread: str
    where: str


def main_table(several: Sequence[Results]) -> MetricTable:
    """Every metric except those of a dataset, whose names contain a slash: "oracle/shape"."""
    names = [name for name in _names(_points(several)) if "/" not in name and name != "kid_std"]
    return _table("", names, several)


def parts(table: MetricTable) -> list[MetricTable]:
    """A table as tables of at most `COLUMNS` metrics, about equally wide; none if it has no rows."""
    count = max(1, -(-len(table.columns) // COLUMNS))
    width = -(-len(table.columns) // count)
    cuts = [slice(k * width, (k + 1) * width) for k in range(count)] if table.groups else []
    groups = [[(m, [(p, cells[cut]) for p, cells in rows]) for m, rows in table.groups] for cut in cuts]
    return [MetricTable(table.title, table.columns[cut], own) for cut, own in zip(cuts, groups, strict=True)]


def measure_tables(several: Sequence[Results]) -> list[MetricTable]:
    """A table for each kind of measures of a dataset, with bars where all values are shares."""
    names = [name for name in _names(_points(several)) if "/" in name]
    kinds = dict.fromkeys(name.partition("/")[0] for name in names)
    return [_table(metric_name(kind), [n for n in names if n.partition("/")[0] == kind], several) for kind in kinds]


def _table(title: str, names: Sequence[str], several: Sequence[Results]) -> MetricTable:
    points = _points(several)
    values = {name: [value for p in points if (value := p.metric(name)) is not None] for name in names}
    bars = bool(title) and all(0 <= value <= 1 for own in values.values() for value in own)
    columns = {name: [_cell(point, name, points, bars) for point in points] for name in names}
    groups, row = [], 0
    for results in several:
        count = len(results.points)
        rows = [(p, [columns[name][row + k] for name in names]) for k, p in enumerate(results.in_order)]
        groups += [(results.model, rows)] if rows else []
        row += count
    heads = [metric_name(name) if title else measured_name(several[0], name).partition(",")[0] for name in names]
    arrows = ["↓" if less_is_better(name) else "↑" for name in names]
    return MetricTable(title, [Column(*column) for column in zip(names, heads, arrows, strict=True)], groups)


def headlines(several: Sequence[Results]) -> list[Headline]:
    """The best values of the metrics that come first: three, or four of a single setting."""
    settings = [(results, point) for results in several for point in results.in_order]
    found = []
    first = (distance(several), "clip_score", "oracle/everything", "precision", "recall")
    for name in first[: 3 if len(settings) > 1 else 5]:
        measured = [(value, results, point) for results, point in settings if (value := point.metric(name)) is not None]
        if measured:
            pick = min if less_is_better(name) else max
            value, results, point = pick(measured, key=lambda one: one[0])
            title = "share with everything right" if name == "oracle/everything" else measured_name(several[0], name)
            most = f"{'lowest' if less_is_better(name) else 'highest'} " if len(measured) > 1 else ""
            where = results.title(point) if len(several) > 1 else point.title
            found.append(Headline(name, most + title, shown(name, value), repr(value), _ends(point, name), where))
    return found[:4]


def settings_tables(results: Results) -> tuple[list[tuple[str, str]], list[str], list[tuple[str, list[str]]]]:
    """The settings of the images: those that all points share; names of those that differ; and a row for each point."""
    points = results.in_order
    leaves = [dict(flattened(point.settings)) if point.settings else {} for point in points]
    names = list(dict.fromkeys(name for one in leaves for name, value in one.items() if value is not None))
    rows = [(name, ["–" if one.get(name) is None else str(one[name]) for one in leaves]) for name in names]
    shared = [(name, values[0]) for name, values in rows if len(set(values)) == 1]
    differing = [(name, values) for name, values in rows if len(set(values)) > 1]
    each = [(point.title, [values[k] for _, values in differing]) for k, point in enumerate(points)]
    return shared, [name for name, _ in differing], each if differing else []


def marked(name: str, points: Sequence[Point]) -> list[bool]:
    """Which points have the best value of a metric, or one whose interval reaches the best one's.

    None are marked if all would be, if only one has a value, or if there are no intervals: then nothing says whether a
    difference is one of the systems or of the captions.
    """
    values = [(value, point) for point in points if (value := point.metric(name)) is not None]
    if len(values) < 2:
        return [False] * len(points)
    sign = 1 if less_is_better(name) else -1
    top = min(values, key=lambda one: sign * one[0])[1]
    if (ends := top.interval(name)) is None:
        return [False] * len(points)

    def reaches(point: Point) -> bool:
        own = point.interval(name)
        return point is top or (own is not None and own[0] <= ends[1] and ends[0] <= own[1])

    found = [point.metric(name) is not None and reaches(point) for point in points]
    return [False] * len(points) if sum(found) == len(values) else found


def any_marked(tables: Sequence[MetricTable]) -> bool:
    """Whether a number of the tables is marked."""
    return any(cell.best for table in tables for _, rows in table.groups for _, cells in rows for cell in cells)


def _points(several: Sequence[Results]) -> list[Point]:
    return [point for results in several for point in results.in_order]


def _names(points: Sequence[Point]) -> list[str]:
    """Names of all metrics, the well-known ones first."""
    found = dict.fromkeys(name for point in points for name in point.metrics)
    first = [name for name in found if is_distance(name)] + [name for name in ORDER if name in found]
    return first + [name for name in found if name not in first]


def _cell(point: Point, name: str, points: Sequence[Point], bar: bool) -> Cell:
    value = point.metric(name)
    if value is None:
        return Cell("not a number" if name in point.metrics else "–")
    best = dict(zip(map(id, points), marked(name, points), strict=True))[id(point)]
    percent = round(100 * value, 2) if bar else None
    return Cell(shown(name, value), repr(value), best, _ends(point, name), _track(point, name, points, bar), percent)


def _ends(point: Point, name: str) -> str:
    """The interval of a metric, or the standard deviation of KID, as text."""
    if ends := point.interval(name):
        return " to ".join(shown(name, end) for end in ends)
    std = point.metric("kid_std") if name == "kid_mean" else None
    return "" if std is None else f"± {shown('kid_std', std)}"


def _track(point: Point, name: str, points: Sequence[Point], share: bool) -> tuple[float, float, float] | None:
    """Where the interval lies between the lowest and the highest end of its column, of a share between 0 and 1; in
    percent. None of an interval that has no other beside it."""
    ends, value = point.interval(name), point.metric(name)
    known = [one for other in points if (one := other.interval(name))]
    if ends is None or value is None or (len(known) == 1 and not share):
        return None
    low, high = (0.0, 1.0) if share else (min(one[0] for one in known), max(one[1] for one in known))
    if high <= low:
        return None
    at = [min(max(round(100 * (place - low) / (high - low), 2), 0.0), 100.0) for place in (*ends, value)]
    return at[0], at[1], at[2]
