"""A page to judge a filter by eye: histograms of what was kept and dropped, and example images."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ediffi.data.filtering.filters import FilterRun
from ediffi.data.filtering.report import EDGES, FilterReport
from ediffi.data.shards import caption_of, image_of, reject_without_image
from ediffi.data.tar import Tally, read_samples
from ediffi.io import urls
from ediffi.io.images import Color, color

KEPT, DROPPED = "#2a9d8f", "#c8553d"
POOL = 2000  # samples that examples are chosen from: the first ones
COLUMNS, SIDE = 10, 160
WIDTH, HISTOGRAM, STRIP = 13.0, 1.9, 2.1  # of the page, and heights of its panels, in inches
LABELS = {
    "short_side": "shortest side, pixels",
    "alignment": "alignment, cosine of image and caption",
    "aesthetic": "aesthetic score",
}


Example = tuple[Image.Image, str, bool]  # a small image, the text below it, and whether the sample was kept


def write_page(path: Path | str, run: FilterRun, total: FilterReport) -> None:
    """Write the page as PNG."""
    from matplotlib.figure import Figure

    examples, keep = collect(run), run.keep
    thresholds = {"short_side": keep.short_side_above, "alignment": keep.alignment, "aesthetic": keep.aesthetic}
    bars = 0.9 + 0.25 * len(total.dropped)
    panels: list[tuple[float, Callable[[Any], None]]] = [
        (0.4, lambda panel: panel.text(0.5, 0.4, str(total), ha="center", fontsize=10)),
        (bars, partial(_reasons, total, bars)),
    ]
    for name in EDGES:
        if any(map(any, total.scores[name].values())):
            panels.append((HISTOGRAM, partial(_histogram, total.scores[name], name, thresholds[name])))
            panels.append((STRIP, partial(_strip, examples[name], f"{LABELS[name]}: from the lowest to the highest")))
    for reason in total.dropped:
        if examples.get(reason):
            panels.append((STRIP, partial(_strip, examples[reason], f"dropped: {reason}")))

    heights = [height for height, _ in panels]
    figure = Figure(figsize=(WIDTH, sum(heights)))
    parts: Any = figure.subfigures(len(panels), 1, height_ratios=heights)
    for part, (_, draw) in zip(parts, panels, strict=True):
        draw(part)
    with urls.placing(str(path)) as beside:
        figure.savefig(beside, dpi=110, format="png")


def collect(run: FilterRun) -> dict[str, list[Example]]:
    """Examples by score, from its lowest to its highest value, and by reason; of the first `POOL` samples."""
    rows: list[tuple[str, int]] = []
    reasons: list[str | None] = []
    values: dict[str, list[np.ndarray]] = {score: [] for score in EDGES}
    for name in run.by_name:
        measures, verdicts = run.verdicts(name)
        rows += [(name, row) for row in range(len(verdicts))]
        reasons += verdicts
        for score in EDGES:
            broken = np.isnan(measures.values("short_side"))
            values[score].append(np.where(broken, np.nan, measures.values(score)))
        if len(rows) >= POOL:
            break

    picked: dict[str, list[tuple[int, str]]] = {}
    for score in EDGES:
        found = np.concatenate(values[score])
        order = np.argsort(found, kind="stable")[: int((~np.isnan(found)).sum())]
        evenly = np.unique(np.linspace(0, len(order) - 1, COLUMNS).round().astype(int)) if len(order) else []
        form = "{:.0f} px" if score == "short_side" else "{:.3f}"
        picked[score] = [(int(position), form.format(found[position])) for position in order[evenly]]
    readable = ~np.isnan(np.concatenate(values["short_side"]))
    for reason in {reason for reason in reasons if reason}:
        dropped = [position for position, why in enumerate(reasons) if why == reason and readable[position]]
        picked[reason] = [(position, "") for position in dropped[:: max(1, len(dropped) // COLUMNS)][:COLUMNS]]

    wanted = {rows[position] for group in picked.values() for position, _ in group}
    shown, background = {}, color(run.settings.background)
    for name in {name for name, _ in wanted}:
        shown.update(_read(run.by_name[name], name, {row for shard, row in wanted if shard == name}, background))
    return {
        group: [
            (shown[rows[position]][0], f"{text}\n{shown[rows[position]][1]}".lstrip(), reasons[position] is None)
            for position, text in positions
        ]
        for group, positions in picked.items()
    }


def _read(url: str, name: str, rows: set[int], background: Color) -> dict[tuple[str, int], tuple[Image.Image, str]]:
    """Small images and wrapped captions of some samples of a shard."""
    found: dict[tuple[str, int], tuple[Image.Image, str]] = {}
    for row, raw in enumerate(read_samples(url, Tally(), reject_without_image)):
        if row in rows:
            image = image_of(raw, background)
            image.thumbnail((SIDE, SIDE))
            try:
                caption = caption_of(raw) or "(no caption)"
            except ValueError:
                caption = "(broken)"
            found[name, row] = image, textwrap.fill(caption, 25, max_lines=3, placeholder=" ...")
        if len(found) == len(rows):
            break
    return found


def _reasons(total: FilterReport, height: float, panel: Any) -> None:
    axes = panel.add_axes((2.2 / WIDTH, 0.55 / height, 1 - 3.2 / WIDTH, 1 - 0.6 / height))
    names = sorted(total.dropped, key=lambda name: total.dropped[name])
    counts = [total.dropped[name] for name in names]
    bars = axes.barh([*names, "kept"], [*counts, total.kept], color=[DROPPED] * len(names) + [KEPT])
    axes.bar_label(bars, labels=[f" {count:,}" for count in [*counts, total.kept]], fontsize=8)
    _plain(axes, "samples")


def _histogram(counts: Mapping[str, Sequence[int]], name: str, threshold: float | None, panel: Any) -> None:
    axes, edges = panel.add_axes((0.7 / WIDTH, 0.55 / HISTOGRAM, 1 - 3.2 / WIDTH, 1 - 0.65 / HISTOGRAM)), EDGES[name]
    kept, dropped = np.array(counts["kept"]), np.array(counts["dropped"])
    axes.bar(edges[:-1], kept, np.diff(edges), align="edge", color=KEPT, label="kept")
    axes.bar(edges[:-1], dropped, np.diff(edges), kept, align="edge", color=DROPPED, label="dropped, for any reason")
    filled = np.flatnonzero(kept + dropped)
    low, high = edges[max(0, filled[0] - 2)], edges[min(len(edges) - 1, filled[-1] + 3)]
    if threshold:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
        low, high = min(low, threshold), max(high, threshold)
    if name == "short_side":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlim(low, high)
    axes.set_ylabel("samples", fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _plain(axes, LABELS[name])


def _strip(examples: Sequence[Example], title: str, panel: Any) -> None:
    for index, (image, text, kept) in enumerate(examples):
        axes = panel.add_axes((index / COLUMNS + 0.004, 0.31, 1 / COLUMNS - 0.008, 0.57))
        axes.set(xticks=[], yticks=[])
        axes.imshow(image)
        axes.set_anchor("N")
        axes.set_xlabel(text, fontsize=6)
        if index == 0:
            axes.annotate(title, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8)
        for spine in axes.spines.values():
            spine.set(color=KEPT if kept else DROPPED, linewidth=2.5)


def _plain(axes: Any, label: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(label, fontsize=8)
