"""Numbers in rows and columns, the best ones marked."""

from collections.abc import Sequence
from typing import NamedTuple

from ediffi.evaluation.naming import distance, is_distance, less_is_better, measured_name, metric_name, shown
from ediffi.evaluation.results import Point, Results, flattened

ORDER = ("kid_mean", "precision", "recall", "f_score", "clip_score")


class Cell(NamedTuple):
    """A number of a table."""

    text: str  # the digits for people
    value: str = ""  # all digits; empty if there is no number
    best: bool = False
    spread: str = ""  # "± 0.0001", or empty
    percent: float | None = None  # length of its bar, if it has one


class MetricTable(NamedTuple):
    """All settings of all models: names of the metrics, each with an arrow to the better side; and rows by model."""

    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[tuple[Point, Sequence[Cell]]]]]


class BarTable(NamedTuple):
    """What a dataset measures: model and title of each column, name and cells of each row."""

    title: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[Cell]]]


class Headline(NamedTuple):
    """The best number of a kind: "lowest FID", "7.35", all its digits, "guidance 3"."""

    name: str
    text: str
    value: str
    where: str


def main_table(several: Sequence[Results]) -> MetricTable:
    """Every metric except those of a dataset, whose names contain a slash: "oracle/shape"."""
    points = [point for _, point in _settings(several)]
    names = [name for name in _names(points) if "/" not in name and name != "kid_std"]
    best = {name: _best(name, points) for name in names}
    groups = []
    for results in several:
        rows = [(p, [_cell(p, name, best[name] == p.metric(name)) for name in names]) for p in results.in_order]
        groups += [(results.model, rows)] if rows else []
    heads = [measured_name(several[0], name).partition(",")[0] for name in names]
    columns = [f"{head} {'↓' if less_is_better(name) else '↑'}" for head, name in zip(heads, names, strict=True)]
    return MetricTable(columns, groups)


def bar_tables(several: Sequence[Results]) -> list[BarTable]:
    """A table for each kind of measures of a dataset."""
    settings = _settings(several)
    points = [point for _, point in settings]
    names = [name for name in _names(points) if "/" in name]
    best = {name: _best(name, points) for name in names}
    tables = []
    for kind in dict.fromkeys(name.partition("/")[0] for name in names):
        own = [name for name in names if name.partition("/")[0] == kind]
        bars = all(0 <= value <= 1 for name in own for p in points if (value := p.metric(name)) is not None)
        rows = [
            (metric_name(name), [_cell(p, name, best[name] == p.metric(name), bars) for p in points]) for name in own
        ]
        tables.append(BarTable(metric_name(kind), [(model, point.title) for model, point in settings], rows))
    return tables


def headlines(several: Sequence[Results]) -> list[Headline]:
    """The best values of the metrics that come first: three, or four of a single setting."""
    settings = _settings(several)
    found = []
    first = (distance(several), "clip_score", "oracle/everything", "precision", "recall")
    for name in first[: 3 if len(settings) > 1 else 5]:
        measured = [(value, model, point) for model, point in settings if (value := point.metric(name)) is not None]
        if measured:
            pick = min if less_is_better(name) else max
            value, model, point = pick(measured, key=lambda one: one[0])
            title = "share with everything right" if name == "oracle/everything" else measured_name(several[0], name)
            most = f"{'lowest' if less_is_better(name) else 'highest'} " if len(measured) > 1 else ""
            where = ", ".join([model] * (len(several) > 1) + [point.title])
            found.append(Headline(most + title, shown(name, value), repr(value), where))
    return found[:4]


def settings_tables(results: Results) -> tuple[list[tuple[str, str]], list[str], list[tuple[str, list[str]]]]:
    """The settings of the images: those that all points share; the points' titles; and those that differ."""
    points = results.in_order
    leaves = [dict(flattened(point.settings)) if point.settings else {} for point in points]
    names = list(dict.fromkeys(name for one in leaves for name, value in one.items() if value is not None))
    rows = [(name, ["–" if one.get(name) is None else str(one[name]) for one in leaves]) for name in names]
    shared = [(name, values[0]) for name, values in rows if len(set(values)) == 1]
    return shared, [point.title for point in points], [(name, values) for name, values in rows if len(set(values)) > 1]


def _settings(several: Sequence[Results]) -> list[tuple[str, Point]]:
    return [(results.model, point) for results in several for point in results.in_order]


def _names(points: Sequence[Point]) -> list[str]:
    """Names of all metrics, the well-known ones first."""
    found = dict.fromkeys(name for point in points for name in point.metrics)
    first = [name for name in found if is_distance(name)] + [name for name in ORDER if name in found]
    return first + [name for name in found if name not in first]


def _best(name: str, points: Sequence[Point]) -> float | None:
    """The best value of a metric; None if fewer than two points have one."""
    values = [value for point in points if (value := point.metric(name)) is not None]
    return (min if less_is_better(name) else max)(values) if len(values) > 1 else None


def _cell(point: Point, name: str, best: bool, bar: bool = False) -> Cell:
    value, std = point.metric(name), point.metric("kid_std") if name == "kid_mean" else None
    if value is None:
        return Cell("not a number" if name in point.metrics else "–")
    spread = f"± {shown('kid_std', std)}" if std is not None else ""
    return Cell(shown(name, value), repr(value), best, spread, round(100 * value, 2) if bar else None)
