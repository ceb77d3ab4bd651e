"""Numbers in rows and columns, the best marked."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ediffi.evaluation.naming import distance, is_distance, less_is_better, measured_name, metric_name, shown
from ediffi.evaluation.results import Point, Results, flattened
from ediffi.evaluation.tradeoff.plan import in_order

ORDER = ("kid_mean", "precision", "recall", "f_score", "clip_score")


class Cell(NamedTuple):
    """A number of a table.

    Attributes:
        text: as people read it.
        value: all its digits; empty if there is no number.
        best: whether it is the best of its kind, where there are several.
        spread: "± 0.0001", or empty.
        percent: how long its bar is, where it has one.
    """

    text: str
    value: str = ""
    best: bool = False
    spread: str = ""
    percent: float | None = None


class Row(NamedTuple):
    """A setting and its numbers."""

    point: Point
    cells: Sequence[Cell]


class Table(NamedTuple):
    """All settings below each other.

    Attributes:
        columns: names of the metrics, with an arrow to where it is better.
        groups: each model with its rows.
    """

    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]

    @property
    def size(self) -> int:
        """How many rows there are."""
        return sum(len(rows) for _, rows in self.groups)


class Bars(NamedTuple):
    """What a data set measures itself, a row for each field and a column for each setting.

    Attributes:
        title: "Oracle".
        columns: model and title of each setting.
        rows: name of the field, and a cell for each setting.
    """

    title: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[Cell]]]


class Headline(NamedTuple):
    """The best number of a kind: "lowest FID", "7.35", "guidance 3"."""

    name: str
    text: str
    value: str
    where: str


def main_table(several: Sequence[Results]) -> Table:
    """Every metric but those that a data set measures itself, which have names such as "oracle/shape"."""
    placed = _placed(several)
    names = [name for name in _names(placed) if "/" not in name and name != "kid_std"]
    best = {name: _best(name, placed) for name in names}

    def row(point: Point) -> Row:
        return Row(point, [_cell(point, name, best[name] == point.metric(name)) for name in names])

    groups = [(results.model, [row(point) for point in in_order(results)]) for results in several if results.points]
    heads = [measured_name(several[0], name).partition(",")[0] for name in names]
    columns = [f"{head} {'↓' if less_is_better(name) else '↑'}" for head, name in zip(heads, names, strict=True)]
    return Table(columns, groups)


def bar_tables(several: Sequence[Results]) -> list[Bars]:
    """A table for each kind of what the data set measures itself."""
    placed = _placed(several)
    names = [name for name in _names(placed) if "/" in name]
    tables = []
    for kind in dict.fromkeys(name.partition("/")[0] for name in names):
        own = [name for name in names if name.partition("/")[0] == kind]
        values = [value for name in own for _, point in placed if (value := point.metric(name)) is not None]
        share = all(0 <= value <= 1 for value in values)
        rows = []
        for name in own:
            best = _best(name, placed)
            rows.append(
                (metric_name(name), [_cell(point, name, best == point.metric(name), share) for _, point in placed])
            )
        tables.append(Bars(metric_name(kind), [(model, point.title) for model, point in placed], rows))
    return tables


def headlines(several: Sequence[Results]) -> list[Headline]:
    """The best of the numbers that people ask for first."""
    placed = _placed(several)
    found = []
    asked = (distance(several), "clip_score", "oracle/everything", "precision", "recall")
    for name in asked[: 3 if len(placed) > 1 else 5]:
        measured = [(point.metric(name), model, point) for model, point in placed if point.metric(name) is not None]
        if measured:
            value = _best(name, placed, alone=True)
            _, model, point = next(one for one in measured if one[0] == value)
            title = "share with everything right" if name == "oracle/everything" else measured_name(several[0], name)
            most = f"{'lowest' if less_is_better(name) else 'highest'} " if len(measured) > 1 else ""
            where = ", ".join([model] * (len(several) > 1) + [point.title])
            found.append(Headline(most + title, shown(name, value), repr(value), where))
    return found[:4]


def settings_tables(results: Results) -> tuple[list[tuple[str, str]], list[str], list[tuple[str, list[str]]]]:
    """What its pictures were made with: what all settings share; the settings' names; and what differs between them."""
    points = in_order(results)
    leaves = [dict(flattened(point.settings)) if point.settings else {} for point in points]
    names = list(dict.fromkeys(name for one in leaves for name, value in one.items() if value is not None))
    rows = [(name, ["–" if one.get(name) is None else str(one[name]) for one in leaves]) for name in names]
    shared = [(name, values[0]) for name, values in rows if len(set(values)) == 1]
    return shared, [point.title for point in points], [(name, values) for name, values in rows if len(set(values)) > 1]


def _placed(several: Iterable[Results]) -> list[tuple[str, Point]]:
    return [(results.model, point) for results in several for point in in_order(results)]


def _names(placed: Sequence[tuple[str, Point]]) -> list[str]:
    """Names of all metrics, the well-known ones first."""
    found = dict.fromkeys(name for _, point in placed for name in point.metrics)
    first = [name for name in found if is_distance(name)] + [name for name in ORDER if name in found]
    return first + [name for name in found if name not in first]


def _best(name: str, placed: Sequence[tuple[str, Point]], alone: bool = False) -> float | None:
    """The best value of a metric; None if fewer than two settings have one, unless `alone`."""
    values = [value for _, point in placed if (value := point.metric(name)) is not None]
    return (min if less_is_better(name) else max)(values) if len(values) > (not alone) else None


def _cell(point: Point, name: str, best: bool, share: bool = False) -> Cell:
    value, std = point.metric(name), point.metric("kid_std") if name == "kid_mean" else None
    if value is None:
        return Cell("not a number" if name in point.metrics else "–")
    spread = f"± {shown('kid_std', std)}" if std is not None else ""
    return Cell(shown(name, value), repr(value), best, spread, round(100 * value, 2) if share else None)
