"""The figures of a reproduction: lines, bars and rows of images, all in one style."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = ("#264653", "#e76f51", "#2a9d8f", "#e9c46a", "#8e6c8a", "#6d6875", "#1d7fb8", "#b5838d")
Curve = tuple[Sequence[float], Sequence[float]]


def lines(
    path: Path,
    series: Mapping[str, Curve],
    axes: Mapping[str, Any],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """A line for each series.

    Args:
        path: a PNG.
        series: x and y by name.
        axes: what matplotlib's `Axes.set` takes: labels, scales, limits.
        labels: texts at the points, by series.
    """
    figure = _figure(6.4, 3.8)
    plot = figure.subplots()
    looks = [(colour, style) for style in ("-", "--", ":") for colour in COLOURS]
    for (name, (x, y)), (colour, style) in zip(series.items(), looks, strict=False):
        plot.plot(x, y, style, marker="o", markersize=4, label=name, color=colour)
        for at, height, text in zip(x, y, (labels or {}).get(name, ()), strict=False):
            plot.annotate(text, (at, height), xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)
    plot.set(**axes)
    if axes.get("xscale") == "log":
        ticks = sorted({value for x, _ in series.values() for value in x})
        if len(ticks) <= 8:
            plot.set_xticks(ticks, [f"{value:.3g}" for value in ticks])
            plot.minorticks_off()
    for axis, (low, high) in ((plot.xaxis, plot.get_xlim()), (plot.yaxis, plot.get_ylim())):
        if axis.get_scale() == "log" and high < 100 * low:  # 2, not 2 x 10^0
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
    _finish(figure, plot, path)


def bars(
    path: Path, groups: Sequence[str], series: Mapping[str, Sequence[tuple[float, float]]], axes: Mapping[str, Any]
) -> None:
    """A bar for each group and series, with its interval: pairs of height and half the interval's width (or nan)."""
    figure = _figure(7.2, 3.8)
    plot = figure.subplots()
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        heights, halves = np.array(values, dtype=float).T
        at = np.arange(len(groups)) + width * (index - (len(series) - 1) / 2)
        plot.bar(at, heights, 0.92 * width, yerr=halves, capsize=2, label=name, color=COLOURS[index % 8])
    plot.axhline(0, color="black", linewidth=0.8)
    plot.set(**axes)
    plot.set_xticks(range(len(groups)), groups, fontsize=8)
    _finish(figure, plot, path)


def wall(path: Path, rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], side: int = 128) -> None:
    """Rows of images, with a label under each column."""
    columns = max(map(len, rows))
    figure = _figure(1.25 * columns, 1.25 * len(rows) + 0.25)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for number, images in enumerate(rows, 1):
        for plot, image, label in zip(grid[number - 1], images, labels, strict=False):
            plot.imshow(image.resize((side, side), Image.Resampling.NEAREST if image.width < side else 1))
            plot.set(xticks=[], yticks=[])
            if number == len(rows):
                plot.set_xlabel(label, fontsize=8)
    figure.savefig(path, dpi=110)


def _finish(figure: Any, plot: Any, path: Path) -> None:
    plot.grid(alpha=0.25)
    plot.spines[["top", "right"]].set_visible(False)
    outside = {"bbox_to_anchor": (1.02, 1), "loc": "upper left"}
    plot.legend(frameon=False, fontsize=8, **(outside if len(plot.get_legend_handles_labels()[1]) > 6 else {}))
    figure.savefig(path, dpi=110)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # without pyplot, nothing global has to be set and closed

    return Figure(figsize=(width, height), layout="constrained")
