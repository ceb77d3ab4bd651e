"""A page to judge a filter by eye: histograms of what was kept and dropped, and pictures of both."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ediffi.data.filtering.filters import Job
from ediffi.data.filtering.measure import Measures, has_picture
from ediffi.data.filtering.report import EDGES, Report, values_of
from ediffi.data.shards import caption_of, picture_of
from ediffi.data.tar import Tally, read_samples

KEPT, DROPPED = "#2a9d8f", "#c8553d"
POOL = 2000
"""Samples that examples are chosen from: the first ones."""
COLUMNS, SIDE = 10, 160
WIDTH = 13.0
"""Of the page, in inches."""
LABELS = {
    "short_side": "shortest side, pixels",
    "alignment": "alignment, cosine of picture and caption",
    "aesthetic": "aesthetic mark",
}


Place = Callable[[float, float, float, float], Any]
"""Makes the axes at x and y from the lower left corner of a panel, of a width and a height, all in inches."""
Panel = tuple[float, Callable[[Place, float], None]]
"""Its height in inches, and what draws it, given its place and its height."""


@dataclass(frozen=True)
class Example:
    """A sample to show: its picture, small; what is said under it; whether it was kept."""

    image: Image.Image
    text: str
    kept: bool


@dataclass(frozen=True)
class Chosen:
    """Where an example is, and what to say of it."""

    shard: str
    row: int
    text: str
    reason: str | None


def write_page(path: Path, job: Job, total: Report) -> None:
    """Write the page as PNG, beside its place and then into it.

    Raises:
        OSError: a shard cannot be read, or the file not written.
    """
    examples = collect(job)
    keep = job.keep
    thresholds = {"short_side": keep.short_side_above, "alignment": keep.alignment, "aesthetic": keep.aesthetic}
    panels: list[Panel] = [(0.9 + 0.25 * len(total.dropped), partial(_reasons, total))]
    for name in EDGES:
        if any(map(any, total.scores[name].values())):
            panels.append((1.9, partial(_histogram, total.scores[name], name, thresholds[name])))
            panels.append((2.1, partial(_strip, examples[name], f"{LABELS[name]}: from the lowest to the highest")))
    for reason in total.dropped:
        if examples.get(reason):
            panels.append((2.1, partial(_strip, examples[reason], f"dropped: {reason}")))
    _draw(panels, str(total), path)


def _draw(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Panels of their own height, in inches, one below the other."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    height = sum(inches for inches, _ in panels) + 0.4
    figure = pyplot.figure(figsize=(WIDTH, height))
    figure.text(0.5, 1 - 0.25 / height, title, ha="center", fontsize=10)
    top = height - 0.4
    for inches, draw in panels:
        top -= inches
        draw(partial(_axes, figure, top, height), inches)
    beside = path.with_name(path.name + ".tmp")
    figure.savefig(beside, dpi=110, format="png")
    pyplot.close(figure)
    beside.replace(path)


def _axes(figure: Any, bottom: float, height: float, x: float, y: float, w: float, h: float) -> Any:
    return figure.add_axes((x / WIDTH, (bottom + y) / height, w / WIDTH, h / height))


def collect(job: Job) -> dict[str, list[Example]]:
    """Examples by score, from its lowest to its highest value, and by reason; of the first `POOL` samples."""
    pool: list[tuple[str, Measures, list[str | None]]] = []
    for name in job.names():
        pool.append((name, *job.verdicts(name)))
        if sum(len(verdicts) for *_, verdicts in pool) >= POOL:
            break
    chosen = {name: _along(pool, name) for name in EDGES}
    for reason in {reason for *_, verdicts in pool for reason in verdicts if reason}:
        chosen[reason] = _of_reason(pool, reason)
    wanted = {(one.shard, one.row) for group in chosen.values() for one in group}
    pictures = {}
    for name, *_ in pool:
        rows = {row for shard, row in wanted if shard == name}
        pictures.update({(name, row): shown for row, shown in _read(job.names()[name], rows).items()})
    return {group: [_example(one, pictures[one.shard, one.row]) for one in picked] for group, picked in chosen.items()}


def _along(pool: Sequence[tuple[str, Measures, list[str | None]]], score: str) -> list[Chosen]:
    """Samples evenly along the order of a score."""
    places = [(name, row) for name, _, verdicts in pool for row in range(len(verdicts))]
    reasons = [reason for *_, verdicts in pool for reason in verdicts]
    values = np.concatenate([values_of(measures, score) for _, measures, _ in pool])
    order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]
    if not len(order):
        return []
    picked = order[np.unique(np.linspace(0, len(order) - 1, COLUMNS).round().astype(int))]
    form = "{:.0f} px" if score == "short_side" else "{:.3f}"
    return [Chosen(places[one][0], places[one][1], form.format(values[one]), reasons[one]) for one in picked]


def _of_reason(pool: Sequence[tuple[str, Measures, list[str | None]]], reason: str) -> list[Chosen]:
    found = [
        Chosen(name, row, "", reason)
        for name, measures, verdicts in pool
        for row, why in enumerate(verdicts)
        if why == reason and measures.sizes[row] is not None
    ]
    return found[:: max(1, len(found) // COLUMNS)][:COLUMNS]


def _read(place: str, rows: set[int]) -> dict[int, tuple[Image.Image, str]]:
    """Small pictures and captions of some samples of a shard."""
    found: dict[int, tuple[Image.Image, str]] = {}
    samples = read_samples(place, Tally(), has_picture)
    for row, raw in enumerate(samples):
        if len(found) == len(rows):
            break
        if row in rows:
            image = picture_of(raw)
            image.thumbnail((SIDE, SIDE))
            try:
                found[row] = image, caption_of(raw)
            except ValueError:
                found[row] = image, "(broken)"
    return found


def _example(chosen: Chosen, shown: tuple[Image.Image, str]) -> Example:
    image, caption = shown
    lines = textwrap.wrap(caption or "(no caption)", 25, max_lines=3, placeholder=" ...")
    return Example(image, "\n".join([chosen.text, *lines] if chosen.text else lines), chosen.reason is None)


def _reasons(total: Report, place: Place, inches: float) -> None:
    axes = place(2.2, 0.55, WIDTH - 3.2, inches - 0.6)
    names = sorted(total.dropped, key=lambda name: total.dropped[name])
    counts = [total.dropped[name] for name in names]
    bars = axes.barh([*names, "kept"], [*counts, total.kept], color=[DROPPED] * len(names) + [KEPT])
    axes.bar_label(bars, labels=[f" {count:,}" for count in [*counts, total.kept]], fontsize=8)
    _plain(axes, "samples")


def _histogram(
    counts: Mapping[str, Sequence[int]], name: str, threshold: float | None, place: Place, inches: float
) -> None:
    axes, edges = place(0.7, 0.55, WIDTH - 3.2, inches - 0.65), EDGES[name]
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


def _strip(examples: Sequence[Example], title: str, place: Place, inches: float) -> None:
    side = WIDTH / COLUMNS
    for index, example in enumerate(examples):
        axes = place(index * side + 0.05, inches - side - 0.2, side - 0.1, side - 0.1)
        axes.set(xticks=[], yticks=[])
        axes.imshow(example.image)
        axes.set_anchor("N")
        axes.set_xlabel(example.text, fontsize=6)
        if index == 0:
            axes.annotate(title, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8)
        for spine in axes.spines.values():
            spine.set(color=KEPT if example.kept else DROPPED, linewidth=2.5)


def _plain(axes: Any, label: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(label, fontsize=8)
