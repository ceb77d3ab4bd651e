"""Curves, bars and the paper's numbers on matplotlib's axes."""

from collections.abc import Sequence
from itertools import pairwise
from math import cos, radians, sin
from typing import TYPE_CHECKING, Any

import numpy as np

from ediffi.evaluation import naming
from ediffi.evaluation.naming import PAPER, less_is_better, measured_name, shortened, shown
from ediffi.evaluation.results import Results
from ediffi.evaluation.tradeoff.plan import FigurePlan, position

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_BEYOND = 20.0
"""Values that differ by more than this factor are drawn on a logarithmic axis."""
LETTERS = 8.0
"""Size of the numbers at points."""
ANGLES = (60, 120, 300, 240, 90, 270, 0, 180)
"""Where a label may be around its point, in degrees; of equally good ones the first is used."""
INK, MUTED, FAINT, SHEET = "#1c1e21", "#6a6f78", "#d9dce1", "#fefefe"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b4649b", "#a87900", "#3d9fd6")
"""After Okabe and Ito, distinct for the colour-blind; the light ones are darker here, to be legible on white."""
MARKERS = "os^DvP"
VARIABLES = {INK: "--ink", MUTED: "--muted", FAINT: "--rule", SHEET: "--sheet"}
VARIABLES |= {colour: f"--series-{index}" for index, colour in enumerate(COLOURS)}
"""The CSS variable with which a page replaces each colour of an SVG."""
STYLE: dict[Any, Any] = {"text.color": INK, "axes.labelcolor": INK, "figure.facecolor": SHEET, "axes.facecolor": "none"}
STYLE |= {"axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "grid.color": FAINT}
STYLE |= {"font.size": 9, "axes.linewidth": 0.8, "grid.linewidth": 0.6, "axes.grid": True, "axes.axisbelow": True}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "ediffi"}  # text as text, and the same ids in every run


def curves(axes: "Axes", figure: "Figure", several: Sequence[Results], planned: FigurePlan) -> None:
    """Lines with a mark for each guidance scale; the paper's distances at the right edge."""
    from matplotlib.font_manager import FontProperties

    name, lower = shortened(measured_name(several[0], planned.metric)), less_is_better(planned.metric)
    clip = shortened(naming.clip_name(several[0]))
    narrow = figure.get_figwidth() < 6
    lines, names, values = [], [], [*PAPER.values()] * planned.paper
    for index, results in enumerate(several):
        at = [xy for point in results.in_order if (xy := position(point, planned.kind, planned.metric))]
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        style |= {"linestyle": "-" if index < len(COLOURS) else "--", "markeredgecolor": SHEET}
        lines += axes.plot([x for x, _ in at], [y for _, y in at], linewidth=1.6, markersize=6.5, **style)
        _intervals(axes, results, planned, COLOURS[index % len(COLOURS)])
        names.append(f" {shortened(results.model, 26 if narrow else 44)}{nfe(results)}")
        values += [y for _, y in at]
    log = min(values) > 0 and max(values) > LOG_BEYOND * min(values)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    name = shortened(name, 26) if narrow else name
    axes.set_ylabel(f"{name}{', log scale' if log else ''}  {'↓' if lower else '↑'} better")
    curve = f"CLIP score (100 × cosine{f', {clip}' if clip and not narrow else ''})  → better"
    axes.set_xlabel(
        curve if planned.kind == "curve" else shortened(naming.convention(several[0]), 44 if narrow else 100)
    )
    axes.margins(0.07, 0.09)
    columns = 2 if not narrow and len(names) > 1 and max(map(len, names)) < 52 else 1
    placement: dict[str, Any] = {"loc": "outside upper left", "ncols": columns, "alignment": "left"}
    legend = figure.legend(lines, names, frameon=False, fontsize=8.5, borderpad=0, **placement)
    legend.set_title(shortened(naming.dataset_name(several[0]), 60), FontProperties(weight="bold", size=10.5))
    if planned.paper:
        _paper(axes)
    if planned.kind == "curve":
        _scales(axes, figure, several, planned.metric)


def _intervals(axes: "Axes", results: Results, planned: FigurePlan, colour: str) -> None:
    """A line through each point of a curve for each of its intervals."""
    for point in results.in_order:
        if (at := position(point, planned.kind, planned.metric)) is None:
            continue
        style: dict[str, Any] = {"color": colour, "linewidth": 1, "alpha": 0.7, "zorder": 1.9}
        if across := point.interval("clip_score") if planned.kind == "curve" else None:
            axes.plot(across, [at[1]] * 2, **style)
        if up := point.interval(planned.metric):
            axes.plot([at[0]] * 2, up, **style)


def bars(axes: "Axes", several: Sequence[Results], planned: FigurePlan, narrow: bool = False) -> None:
    """A bar for each setting, the best first; the paper's numbers in grey between them."""
    metric, lower = planned.metric, less_is_better(planned.metric)
    rows: list[tuple[float, str, str, str, tuple[float, float] | None]] = []
    rows += [(value, name, FAINT, "", None) for name, value in PAPER.items()] if planned.paper else []
    for index, results in enumerate(several):
        for point in results.points:
            value, score = point.metric(metric), point.metric("clip_score") if naming.is_distance(metric) else None
            if value is not None:
                ends = point.interval(metric)
                note = f"CLIP score {shown('clip_score', score)}" if score is not None else ""
                once, setting = point.title == results.model, f", {shortened(point.title, 20)}"
                name = f"{shortened(results.model, 30)}{'' if once else setting}{nfe(results)}"
                stacked = [results.model] if once else [results.model, point.title]
                name = "\n".join(shortened(text, 16) for text in stacked) if narrow else name
                rows.append((value, name, COLOURS[index % len(COLOURS)], note, ends))
    rows.sort(key=lambda row: row[0] if lower else -row[0])
    for height, (value, _, colour, note, ends) in enumerate(rows):
        axes.barh(height, value, color=colour, height=0.66)
        if ends:
            axes.plot(ends, [height + 0.24] * 2, color=INK, linewidth=1, alpha=0.7)
        beside: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline"}
        text = axes.annotate(shown(metric, value), (value, height), (4, 0), **beside)
        text.set_fontweight("normal" if colour == FAINT else "bold")
        if note:
            axes.annotate(note, (value, height), (44, 0), **beside, fontsize=LETTERS, color=MUTED)
    axes.set_yticks(range(len(rows)), [row[1] for row in rows], color=INK)
    axes.invert_yaxis()
    axes.set_xmargin(0.6 if narrow else 0.25)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    name, better = shortened(measured_name(several[0], metric), 48), "← better" if lower else "→ better"
    axes.set_xlabel(f"{name}\n{better}" if narrow else f"{name}  {better}")


def nfe(results: Results) -> str:
    """The network evaluations of an evaluation's points, after a name: " · NFE 75", " · NFE 38 to 75"; empty if they
    are not known, as of other systems' images."""
    values = sorted({point.nfe for point in results.points if point.nfe is not None})
    ends = dict.fromkeys([values[0], values[-1]] if values else [])
    return f" · NFE {' to '.join(f'{value:g}' for value in ends)}" if ends else ""


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


def dodge(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart to be at least `gap` from each other, in their order, close to where they were.

    Neighbours that touch form a block, which is placed at the mean of its members' positions.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    blocks: list[list[int]] = []

    def lowest(block: list[int]) -> float:
        return sum(heights[index] - gap * rank for rank, index in enumerate(block)) / len(block)

    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and lowest(blocks[-2]) + gap * len(blocks[-2]) > lowest(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = list(heights)
    for block in blocks:
        for rank, index in enumerate(block):
            moved[index] = lowest(block) + gap * rank
    return moved


def place(
    texts: Sequence[tuple[float, float, str]], lines: Sequence[Sequence[tuple[float, float]]], size: float
) -> list[tuple[float, float]]:
    """Offsets of texts' centres from their points (x, y, text): each covers least of the lines and of earlier texts.

    All in pixels; `size` is of the letters.
    """
    crowd = [np.linspace(a, b, 48) for line in lines for a, b in pairwise(line)]
    crowd += [np.repeat([[x, y]], 12, axis=0) for x, y, _ in texts]
    filled = np.concatenate(crowd) if crowd else np.zeros((0, 2))
    offsets = []
    for x, y, text in texts:
        half = np.array([0.31 * len(text) * size + 1, 0.45 * size + 1])
        reach = half + 0.55 * size
        around = [np.array([reach[0] * cos(radians(a)), reach[1] * sin(radians(a))]) for a in ANGLES]
        options = [distance * option for distance in (1, 1.35) for option in around]
        covered = [int((abs(filled - (np.array([x, y]) + option)) <= half).all(1).sum()) for option in options]
        best = options[int(np.argmin(covered))]
        box = np.array([[x, y]]) + best + half * np.array([[i, j] for i in (-1, -0.5, 0, 0.5, 1) for j in (-1, 0, 1)])
        filled = np.concatenate([filled, np.repeat(box, 3, axis=0)])
        offsets.append((float(best[0]), float(best[1])))
    return offsets
