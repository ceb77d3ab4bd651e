"""What a figure of some evaluations shows, and which points it leaves out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ediffi.evaluation.naming import comparable_to_paper, distance, is_distance, metric_name
from ediffi.evaluation.results import Point, Results, check_comparable

FigureKind = Literal["curve", "guidance", "bars", "nothing"]


@dataclass(frozen=True)
class FigurePlan:
    """What a figure shows."""

    kind: FigureKind  # "curve": distance over CLIP score; "guidance": a metric over guidance scale
    metric: str = "fid"  # on the y axis, or the length of the bars
    paper: bool = False  # whether the paper's numbers are drawn too
    left_out: Sequence[str] = ()  # "model, guidance 3: why" of each point that is not drawn


def plan(several: Sequence[Results]) -> FigurePlan:
    """What the figure of some evaluations of one dataset shows."""
    if not several:
        raise ValueError("a figure needs at least one evaluation, got none")
    check_comparable(several)
    points = [point for results in several for point in results.points]
    names = [distance(several), "clip_score", "oracle/everything", *(name for p in points for name in p.metrics)]
    metric = next((name for name in names if any(point.metric(name) is not None for point in points)), None)
    if metric is None:
        return FigurePlan("nothing")

    def longest(kind: FigureKind) -> int:
        return max(sum(position(point, kind, metric) is not None for point in results.points) for results in several)

    kind: FigureKind = "curve" if longest("curve") > 1 else "guidance" if longest("guidance") > 1 else "bars"
    reasons = [(results.model, p.title, _why_not(p, kind, metric)) for results in several for p in results.points]
    left_out = tuple(f"{model}, {title}: {reason}" for model, title, reason in reasons if reason)
    return FigurePlan(kind, metric, metric == "fid" and all(map(comparable_to_paper, several)), left_out)


def position(point: Point, kind: FigureKind, metric: str) -> tuple[float, float] | None:
    """x and y of a point in a curve or over guidance; None if it cannot be drawn."""
    if kind == "curve" and not is_distance(metric):
        return None
    x, y = point.metric("clip_score") if kind == "curve" else point.guidance_scale, point.metric(metric)
    return None if x is None or y is None else (x, y)


def _why_not(point: Point, kind: FigureKind, metric: str) -> str:
    """Why a point cannot be drawn; empty if it can."""
    name, value = "distance" if is_distance(metric) else metric_name(metric), point.metric(metric)
    if value is None:
        return f"{name} {'is not a number' if metric in point.metrics else 'was not measured'}"
    if kind == "bars" or position(point, kind, metric):
        return ""
    return f"no {'CLIP score' if kind == 'curve' else 'guidance scale'}, {name} {value:.4g}"
