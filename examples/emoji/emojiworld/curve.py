"""How a model comes on: what the judge reads, by the number of images it was trained on."""

from pathlib import Path
from typing import Any

from ediffi.io import plain_json

SHOWN = {
    "seen pairs/concept": "seen pairs: the thing",
    "held-out pairs/concept": "held-out pairs: the thing",
    "seen pairs/style": "seen pairs: the style",
    "held-out pairs/style": "held-out pairs: the style",
    "style image/style": "style image: the style",
    "two things/both": "two things: both",
    "unseen synonyms/concept": "unseen synonyms: the thing",
    "painted areas/each": "painted areas: each thing inside",
}
"""Metrics of the suite `emoji`, a panel each."""


def draw_curve(results: Path, output: Path) -> None:
    """A figure of `results`: `points`, each with `images`, `metrics` and `intervals`, and the `aims`. ValueError: it
    has others, or the output is no PNG."""
    if output.suffix != ".png":
        raise ValueError(f"the figure is a PNG: give it a name with .png, got {output}")
    try:
        _draw(plain_json.read(results), output)
    except (KeyError, TypeError, AttributeError, ValueError):
        needed = "points with images, metrics and intervals, and aims"
        raise ValueError(f"{results} has no {needed}, as benchmarks/results/emoji_model.json has") from None


def _draw(content: dict[str, Any], output: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    for panel, (metric, title) in zip(panels.flat, SHOWN.items(), strict=True):
        points = [point for point in content["points"] if metric in point["metrics"]]
        images = [point["images"] / 1e6 for point in points]
        panel.plot(images, [point["metrics"][metric] for point in points], "o-", color="#2b5c8a")
        for x, point in zip(images, points, strict=True):
            if interval := point["intervals"].get(metric):
                panel.plot([x, x], interval, color="#2b5c8a", alpha=0.5)
        if metric in content["aims"]:
            panel.axhline(content["aims"][metric], color="#b0552b", linestyle="--", linewidth=1)
        panel.set_title(title, fontsize=10)
        panel.set(xlim=(0, None), ylim=(0, 1))
        panel.grid(alpha=0.2)
    figure.supxlabel("million images seen in training (aims dashed)", fontsize=10)
    figure.supylabel("share that is right", fontsize=10)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
