"""Measure with the oracle how well a Toybox cascade obeys paint-with-words and style images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from ediffi.diffusion.layout import SIDE, Region, polygon
from ediffi.evaluation.datasets import toybox
from ediffi.evaluation.datasets.toybox.render import draw
from ediffi.evaluation.datasets.toybox.scene import Placed, radius
from ediffi.io.files import replace
from ediffi.io.images import to_images
from ediffi.io.progress import Progress
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.stage import Sampling, Steering
from ediffi.pipeline.style import Style
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning
from ediffi.toybox.score import wrap
from ediffi.toybox.shards import in_style

HALF: Final = 0.25  # half the side of a painted square, frame units: the largest object fits in it
INSIDE: Final = 0.5  # least share of an object that has to be in its painted region
STYLE_SIZE: Final = 64  # side of the style images, that of the Toybox CLIP
BATCH_SIZE: Final = 20


@dataclass(frozen=True)
class Case:
    """A scene with a caption; to paint, also the region of each object; for style, the scene of the style image."""

    scene: toybox.Scene
    caption: toybox.Caption
    regions: tuple[Region, ...] = ()
    reference: toybox.Scene | None = None


def painted_cases(number: int, seed: int = 0, split: toybox.Split = "test") -> list[Case]:
    """Scenes of two and three objects in turn: captions that do not name the layout, regions that show it."""
    cases = []
    for index in range(number):
        rng = np.random.default_rng([seed, 7, index])
        scene = toybox.sample_scene(rng, split, 2 + index % 2)
        said = toybox.caption(scene, rng, naming={**toybox.NAMEABLE, "layout": 0.0})
        regions = []
        for thing, slot in zip(scene.objects, scene.slots, strict=True):
            corners = [[slot.x + dx * HALF, slot.y + dy * HALF] for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            regions.append(Region(f"{thing.colour} {thing.shape}", polygon(corners)))
        cases.append(Case(scene, said, tuple(regions)))
    return cases


def styled_cases(number: int, seed: int = 0, split: toybox.Split = "test") -> list[Case]:
    """Scenes of one to three objects in turn, captions that name no style, a style image in each style in turn."""
    cases = []
    for index in range(number):
        rng = np.random.default_rng([seed, 8, index])
        scene = toybox.sample_scene(rng, split, 1 + index % 3)
        said = toybox.caption(scene, rng, naming={**toybox.NAMEABLE, "style": 0.0})
        cases.append(Case(scene, said, reference=in_style(toybox.STYLES[index // 3 % 3], rng, split)))
    return cases


def judge(
    cascade: Cascade,
    count: int,
    seed: int,
    paint_weights: Sequence[float],
    style_scales: Sequence[float],
    folder: Path,
    split: toybox.Split = "test",
) -> dict[str, Any]:
    """Measure paint and style, `count` cases each, and write `controls.json`, `paint.png` and `style.png`.

    The first measurement is without paint, and without a style image. Returns the protocol and, for each weight w' and
    scale, the rates of `judge_paint` and `judge_style`.
    """
    painted, styled = painted_cases(count, seed, split), styled_cases(count, seed, split)
    paint = {f"{w:g}": judge_paint(cascade, painted, w, seed) for w in [0.0, *paint_weights]}
    style = {"none": judge_style(cascade, styled, None, seed)}
    style |= {f"{s:g}": judge_style(cascade, styled, s, seed) for s in style_scales}
    folder.mkdir(parents=True, exist_ok=True)
    regions = [_draw_regions(case) for case in painted]
    references = [_style_image(case) for case in styled]
    _sheet(painted, [regions, *(row.pop("images") for row in paint.values())]).save(folder / "paint.png")
    _sheet(styled, [references, *(row.pop("images") for row in style.values())]).save(folder / "style.png")
    protocol = {"dataset": "toybox", "split": split, "count": count, "seed": seed, "stage": cascade.stages[-1].name}
    protocol |= {"inside_means": f"at least {INSIDE} of an object in its area"}
    results = {**protocol, "paint": paint, "style": style}
    replace(folder / "controls.json", json.dumps(results, indent=1) + "\n")
    return results


def judge_paint(cascade: Cascade, cases: Sequence[Case], paint_weight: float, seed: int = 0) -> dict[str, Any]:
    """Generate an image of each painted case with its regions; image k is a function of (seed, k).

    `inside` is the share of objects found at least half in their region; then the caption's fields, as `accuracy` has
    them, and the `images`.
    """
    plan = cascade.plan(SamplingOptions(paint_weight=paint_weight))
    conds = [cascade.encode([case.caption.text], regions=case.regions) for case in cases]
    images, readings = _generate(cascade, conds, plan, Steering(), seed)
    inside = [
        any(
            (thing.shape, thing.colour) == (one.shape, one.colour)
            and _share(one, len(reading.objects), region) >= INSIDE
            for one in reading.objects
        )
        for case, reading in zip(cases, readings, strict=True)
        for thing, region in zip(case.scene.objects, case.regions, strict=True)
    ]
    return {"inside": float(np.mean(inside)), **_content(cases, readings), "images": images}


def judge_style(cascade: Cascade, cases: Sequence[Case], style_scale: float | None, seed: int = 0) -> dict[str, Any]:
    """Generate an image of each case in the style of its style image (without it for None), and read the style back.

    `style` is the share of images in the style of the style image; the rest is as in `judge_paint`.
    """
    with_style = style_scale is not None
    conds = [cascade.encode([case.caption.text], Style(_style_image(case)) if with_style else None) for case in cases]
    images, readings = _generate(cascade, conds, cascade.plan(), Steering(style_scale=style_scale or 0.0), seed)
    references = [case.reference.style for case in cases if case.reference is not None]
    right = [style == reading.style for style, reading in zip(references, readings, strict=True)]
    return {"style": float(np.mean(right)), **_content(cases, readings), "images": images}


def _generate(
    cascade: Cascade, conds: Sequence[Conditioning], plan: Sequence[Sampling], steering: Steering, seed: int
) -> tuple[list[Image.Image], list[toybox.Reading]]:
    images: list[Image.Image] = []
    for first in Progress(range(0, len(conds), BATCH_SIZE), desc="generating", unit="batch"):
        batch = Conditioning.cat(list(conds[first : first + BATCH_SIZE]))
        randomness = Philox(seed, range(first, min(first + BATCH_SIZE, len(conds))))
        stages = cascade.sample(batch, randomness, plan, steering=steering)
        images += to_images(stages[cascade.stages[-1].name])
    return images, [toybox.read(np.array(image)) for image in images]


def _share(detected: toybox.DetectedObject, crowd: int, region: Region) -> float:
    # A detected object has all attributes or none; only one whose shape and colour match its prompt comes here.
    thing = toybox.Object(str(detected.shape), str(detected.colour), str(detected.size))
    placed = Placed(thing, detected.x, detected.y, radius(thing.size, crowd))
    pixels = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)
    silhouette = draw(placed, "flat", crowd, pixels, pixels, SIDE).silhouette
    return float((silhouette * region.mask.numpy()).sum() / silhouette.sum())


def _content(cases: Sequence[Case], readings: Sequence[toybox.Reading]) -> dict[str, float]:
    """The share of images in which each field that the captions name is right."""
    rows = [toybox.score(case.scene, case.caption, reading) for case, reading in zip(cases, readings, strict=True)]
    return {name: value for name, value in toybox.accuracy(rows).items() if name != "style" and not np.isnan(value)}


def _style_image(case: Case) -> Image.Image:
    assert case.reference is not None
    return Image.fromarray(toybox.render(case.reference, STYLE_SIZE))


def _draw_regions(case: Case) -> Image.Image:
    """The painted regions, each in the colour of its object."""
    pixels = np.full((SIDE, SIDE, 3), toybox.BACKGROUNDS["gray"], np.uint8)
    for thing, region in zip(case.scene.objects, case.regions, strict=True):
        pixels[region.mask.numpy() > 0.5] = toybox.COLOURS[thing.colour]
    return Image.fromarray(pixels)


def _sheet(cases: Sequence[Case], rows: Sequence[list[Image.Image]]) -> Image.Image:
    """A column for each case: its caption, then its image in each row."""
    columns, side = 8, 128
    page = Image.new("RGB", (columns * (side + 6), 64 + len(rows) * (side + 6)), "white")
    draw_on = ImageDraw.Draw(page)
    for column, case in enumerate(cases[:columns]):
        left = column * (side + 6) + 3
        draw_on.multiline_text((left, 3), wrap(case.caption.text, side // 6), fill="black", spacing=1)
        for row, images in enumerate(rows):
            shown = images[column].resize((side, side), Image.Resampling.LANCZOS)
            page.paste(shown, (left, 64 + row * (side + 6)))
    return page
