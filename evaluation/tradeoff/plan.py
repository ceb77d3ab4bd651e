"""What a figure of some evaluations shows, and what has no place on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ediffi.evaluation.naming import comparable_to_paper, distance, is_distance, metric_name
from ediffi.evaluation.results import Point, Results, check_comparable

Kind = Literal["curve", "guidance", "bars", "nothing"]


@dataclass(frozen=True)
class Plan:
    """What a figure of some evaluations shows.

    Attributes:
        kind: "curve" of distance over CLIP score; "guidance", a metric over guidance scale; "bars"; or "nothing".
        metric: what is on the y axis, or how long the bars are.
        paper: whether the paper's numbers stand beside it.
        left_out: "model, guidance 3: why" of each point that has no place.
    """

    kind: Kind
    metric: str = "fid"
    paper: bool = False
    left_out: Sequence[str] = ()


def plan(several: Sequence[Results]) -> Plan:
    """What the figure of some evaluations of one data set will show.

    Raises:
        ValueError: there are none, or they do not compare.
    """
    if not several:
        raise ValueError("a figure needs at least one evaluation, got none")
    check_comparable(several)
    points = [point for results in several for point in results.points]
    names = dict.fromkeys(
        [distance(several), "clip_score", "oracle/everything", *(name for point in points for name in point.metrics)]
    )
    metric = next((name for name in names if any(point.metric(name) is not None for point in points)), None)
    if metric is None:
        return Plan("nothing")

    def longest(kind: Kind) -> int:
        return max(sum(spot(point, kind, metric) is not None for point in results.points) for results in several)

    kind: Kind = "curve" if longest("curve") > 1 else "guidance" if longest("guidance") > 1 else "bars"
    lacks = [
        (results.model, point.title, _lack(point, kind, metric)) for results in several for point in results.points
    ]
    left_out = tuple(f"{model}, {title}: {lack}" for model, title, lack in lacks if lack)
    return Plan(kind, metric, metric == "fid" and all(map(comparable_to_paper, several)), left_out)


def in_order(results: Results) -> list[Point]:
    """Its points by guidance scale, as a line connects them; those of which it is not known as they come."""
    return sorted(results.points, key=lambda point: (point.guidance_scale is None, point.guidance_scale or 0))


def spot(point: Point, kind: Kind, metric: str) -> tuple[float, float] | None:
    """Where a point stands in a figure of that kind; None if it has no place."""
    if kind == "curve" and not is_distance(metric):
        return None
    x, y = point.metric("clip_score") if kind == "curve" else point.guidance_scale, point.metric(metric)
    return None if x is None or y is None else (x, y)


def _lack(point: Point, kind: Kind, metric: str) -> str:
    """Why a point has no place in a figure; empty if it has one."""
    name, value = "distance" if is_distance(metric) else metric_name(metric), point.metric(metric)
    if value is None:
        return f"{name} {'is not a number' if metric in point.metrics else 'was not measured'}"
    if kind == "bars" or spot(point, kind, metric):
        return ""
    return f"no {'CLIP score' if kind == 'curve' else 'guidance scale'}, {name} {value:.4g}"
