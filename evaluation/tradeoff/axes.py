"""Curves, bars and the paper's numbers on matplotlib's axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ediffi.evaluation.naming import (
    PAPER,
    clip_name,
    convention,
    dataset_name,
    is_distance,
    less_is_better,
    measured_name,
    shortened,
    shown,
)
from ediffi.evaluation.results import Results
from ediffi.evaluation.tradeoff.labels import dodge, place
from ediffi.evaluation.tradeoff.palette import COLOURS, FAINT, INK, MARKERS, MUTED, SHEET
from ediffi.evaluation.tradeoff.plan import FigurePlan, position

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_BEYOND = 20.0
"""Values that differ by more than this factor are drawn on a logarithmic axis."""
LETTERS = 8.0
"""Size of the numbers at points."""


def curves(axes: "Axes", figure: "Figure", several: Sequence[Results], planned: FigurePlan) -> None:
    """Lines with a mark for each guidance scale; the paper's distances at the right edge."""
    from matplotlib.font_manager import FontProperties

    name, lower = shortened(measured_name(several[0], planned.metric)), less_is_better(planned.metric)
    clip = shortened(clip_name(several[0]))
    lines, names, values = [], [], [*PAPER.values()] * planned.paper
    for index, results in enumerate(several):
        at = [xy for point in results.in_order if (xy := position(point, planned.kind, planned.metric))]
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        style |= {"linestyle": "-" if index < len(COLOURS) else "--", "markeredgecolor": SHEET}
        lines += axes.plot([x for x, _ in at], [y for _, y in at], linewidth=1.6, markersize=6.5, **style)
        names.append(f" {shortened(results.model)} · {nfe(results)}")
        values += [y for _, y in at]
    log = min(values) > 0 and max(values) > LOG_BEYOND * min(values)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel(f"{name}{', log scale' if log else ''}  {'↓' if lower else '↑'} better")
    curve = f"CLIP score (100 × cosine{f', {clip}' if clip else ''})  → better"
    axes.set_xlabel(curve if planned.kind == "curve" else shortened(convention(several[0]), 100))
    axes.margins(0.07, 0.09)
    columns = 2 if len(names) > 1 and max(map(len, names)) < 52 else 1
    placement: dict[str, Any] = {"loc": "outside upper left", "ncols": columns, "alignment": "left"}
    legend = figure.legend(lines, names, frameon=False, fontsize=8.5, borderpad=0, **placement)
    legend.set_title(shortened(dataset_name(several[0]), 60), FontProperties(weight="bold", size=10.5))
    if planned.paper:
        _paper(axes)
    if planned.kind == "curve":
        _scales(axes, figure, several, planned.metric)


def bars(axes: "Axes", several: Sequence[Results], planned: FigurePlan) -> None:
    """A bar for each setting, the best first; the paper's numbers in grey between them."""
    metric, lower = planned.metric, less_is_better(planned.metric)
    rows = [(value, name, FAINT, "") for name, value in PAPER.items()] if planned.paper else []
    for index, results in enumerate(several):
        for point in results.points:
            value, score = point.metric(metric), point.metric("clip_score")
            if value is not None:
                note = f"CLIP score {shown('clip_score', score)}" if score is not None and is_distance(metric) else ""
                name = f"{shortened(results.model, 30)}, {shortened(point.title, 20)} · {nfe(results)}"
                rows.append((value, name, COLOURS[index % len(COLOURS)], note))
    rows.sort(key=lambda row: row[0] if lower else -row[0])
    for height, (value, _, colour, note) in enumerate(rows):
        axes.barh(height, value, color=colour, height=0.66)
        beside: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline"}
        text = axes.annotate(shown(metric, value), (value, height), (4, 0), **beside)
        text.set_fontweight("normal" if colour == FAINT else "bold")
        if note:
            axes.annotate(note, (value, height), (44, 0), **beside, fontsize=LETTERS, color=MUTED)
    axes.set_yticks(range(len(rows)), [row[1] for row in rows], color=INK)
    axes.invert_yaxis()
    axes.set_xmargin(0.25)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{shortened(measured_name(several[0], metric))}  {'← better' if lower else '→ better'}")


def nfe(results: Results) -> str:
    """The network evaluations of an evaluation's points: "NFE 75", "NFE 38 to 75"."""
    values = sorted({point.nfe for point in results.points if point.nfe is not None})
    if not values:
        return "NFE not known"
    return f"NFE {values[0]:g}" if len(values) == 1 else f"NFE {values[0]:g} to {values[-1]:g}"


def _paper(axes: "Axes") -> None:
    """Table 1 at the right edge: a tick at each number, and its name beside it where there is room."""
    left, across = axes.get_xlim()[0], axes.transAxes
    axes.update_datalim([(left, value) for value in PAPER.values()], updatex=False)
    axes.autoscale_view(scalex=False)
    points = [axes.transData.transform((left, value)) for value in PAPER.values()]
    heights = [float(across.inverted().transform(point)[1]) for point in points]
    for (name, value), height, moved in zip(PAPER.items(), heights, dodge(heights, 0.045), strict=True):
        colour = INK if name.startswith("eDiff-I") else MUTED
        elbow = [1.003, 1.014, 1.03]
        axes.plot([0.985, 1.003], [height] * 2, color=colour, linewidth=1.3, transform=across, clip_on=False)
        axes.plot(elbow, [height, height, moved], color=MUTED, linewidth=0.5, transform=across, clip_on=False)
        axes.text(1.036, moved, f"{value:.2f}  {name}", transform=across, va="center", fontsize=7.5, color=colour)


def _scales(axes: "Axes", figure: "Figure", several: Sequence[Results], metric: str) -> None:
    """The guidance scale at each point of a curve, where it covers least."""
    figure.draw_without_rendering()
    lines, texts, colours = [], [], []
    for index, results in enumerate(several):
        known = [(at, point) for point in results.in_order if (at := position(point, "curve", metric))]
        pixels = axes.transData.transform(np.array([at for at, _ in known]).reshape(-1, 2))
        lines.append([(float(x), float(y)) for x, y in pixels])
        for (x, y), (_, point) in zip(lines[-1], known, strict=True):
            scale = point.guidance_scale
            texts.append((x, y, shortened(point.name, 12) if scale is None else f"{scale:g}"))
            colours.append(COLOURS[index % len(COLOURS)])
    offsets = place(texts, lines, LETTERS * figure.dpi / 72)
    for (x, y, text), colour, (right, up) in zip(texts, colours, offsets, strict=True):
        across, high = axes.transData.inverted().transform((x + right, y + up))
        label = axes.text(across, high, text, fontsize=LETTERS, color=colour, ha="center", va="center_baseline")
        label.set_in_layout(False)
