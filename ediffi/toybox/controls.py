"""Measure with the oracle how well a Toybox cascade obeys paint-with-words and style images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from ediffi.diffusion.layout import SIDE, Region, polygon
from ediffi.evaluation.datasets.toybox import (
    BACKGROUNDS,
    COLOURS,
    NAMEABLE,
    STYLES,
    Caption,
    DetectedObject,
    Object,
    Reading,
    Scene,
    Split,
    accuracy,
    caption,
    read,
    render,
    sample_scene,
    score,
)
from ediffi.evaluation.datasets.toybox.render import draw
from ediffi.evaluation.datasets.toybox.scene import Placed, Slot, radius
from ediffi.io.files import replace
from ediffi.io.images import to_images
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions, Style
from ediffi.pipeline.stage import Sampling, Steering
from ediffi.registry.random import generators
from ediffi.registry.types import Conditioning
from ediffi.toybox.score import wrap
from ediffi.toybox.shards import in_style

HALF: Final = 0.25
"""Half the side of a painted square, frame units: the largest object fits in it."""
INSIDE: Final = 0.5
"""Least share of an object that has to be in its painted region."""
STYLE_SIZE: Final = 64
"""Side of the style images, that of the Toybox CLIP."""
BATCH_SIZE: Final = 20


@dataclass(frozen=True)
class Case:
    """A scene with a caption; to paint, also the region of each object; for style, the scene of the style image."""

    scene: Scene
    caption: Caption
    regions: tuple[Region, ...] = ()
    reference: Scene | None = None


def painted_cases(number: int, seed: int = 0, split: Split = "test") -> list[Case]:
    """Scenes of two and three objects in turn: captions that do not name the layout, regions that show it."""
    cases = []
    for index in range(number):
        rng = np.random.default_rng([seed, 7, index])
        scene = sample_scene(rng, split, 2 + index % 2)
        said = caption(scene, rng, naming={**NAMEABLE, "layout": 0.0})
        things = zip(scene.objects, scene.slots, strict=True)
        regions = tuple(Region(f"{thing.colour} {thing.shape}", polygon(square(slot))) for thing, slot in things)
        cases.append(Case(scene, said, regions))
    return cases


def styled_cases(number: int, seed: int = 0, split: Split = "test") -> list[Case]:
    """Scenes of one to three objects in turn, captions that name no style, a style image in each style in turn."""
    cases = []
    for index in range(number):
        rng = np.random.default_rng([seed, 8, index])
        scene = sample_scene(rng, split, 1 + index % 3)
        said = caption(scene, rng, naming={**NAMEABLE, "style": 0.0})
        cases.append(Case(scene, said, reference=in_style(STYLES[index // 3 % 3], rng, split)))
    return cases


def square(slot: Slot) -> list[list[float]]:
    """The corners of the painted square around a slot's centre."""
    return [[slot.x + dx * HALF, slot.y + dy * HALF] for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def judge(
    cascade: Cascade,
    count: int,
    seed: int,
    paint_weights: Sequence[float],
    style_scales: Sequence[float],
    folder: Path,
    split: Split = "test",
) -> dict[str, Any]:
    """Measure paint and style, and write `controls.json`, `paint.png` and `style.png`.

    Args:
        cascade: the model.
        count: cases of each kind.
        seed: of the cases and the images.
        paint_weights: each w' to paint with; 0, unpainted, is always first.
        style_scales: each scale to try; without a style image is always first.
        folder: created if it is missing.
        split: "test" has only attribute combinations that training never saw, "train" only others.

    Returns:
        The protocol and, for each weight and scale, the rates of `judge_paint` and `judge_style`.
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
    results = {
        "dataset": "toybox",
        "split": split,
        "count": count,
        "seed": seed,
        "stage": cascade.stages[-1].name,
        "inside_means": f"at least {INSIDE} of an object in its area",
        "paint": paint,
        "style": style,
    }
    replace(folder / "controls.json", json.dumps(results, indent=1) + "\n")
    return results


def judge_paint(cascade: Cascade, cases: Sequence[Case], paint_weight: float, seed: int = 0) -> dict[str, Any]:
    """Generate an image of each case with its regions, and measure how many objects are in theirs.

    Args:
        cascade: the model.
        cases: of `painted_cases`.
        paint_weight: w' of the base stage.
        seed: image k is a function of (seed, k).

    Returns:
        `inside`: the share of objects found at least half in their region; the caption's fields, as `accuracy` has
        them; and the `images`.
    """
    plan = cascade.plan(SamplingOptions(paint_weight=paint_weight))
    conds = [cascade.encode([case.caption.text], regions=case.regions) for case in cases]
    images, readings = _generate(cascade, conds, plan, Steering(), seed)
    inside = [
        any(_matches(thing, one) and _share(one, len(reading.objects), region) >= INSIDE for one in reading.objects)
        for case, reading in zip(cases, readings, strict=True)
        for thing, region in zip(case.scene.objects, case.regions, strict=True)
    ]
    return {"inside": float(np.mean(inside)), **_content(cases, readings), "images": images}


def judge_style(cascade: Cascade, cases: Sequence[Case], style_scale: float | None, seed: int = 0) -> dict[str, Any]:
    """Generate an image of each case in the style of its style image, and read the style back.

    Args:
        cascade: the model.
        cases: of `styled_cases`.
        style_scale: see `ClassifierFreeGuidance`; None is without the style image.
        seed: image k is a function of (seed, k).

    Returns:
        `style`: the share of images in the style of the style image; the caption's fields, as `accuracy` has them; and
        the `images`.
    """
    styles = [None if style_scale is None else Style(_style_image(case)) for case in cases]
    conds = [cascade.encode([case.caption.text], style) for case, style in zip(cases, styles, strict=True)]
    images, readings = _generate(cascade, conds, cascade.plan(), Steering(style_scale=style_scale or 0.0), seed)
    right = [
        case.reference is not None and case.reference.style == reading.style
        for case, reading in zip(cases, readings, strict=True)
    ]
    return {"style": float(np.mean(right)), **_content(cases, readings), "images": images}


def _generate(
    cascade: Cascade, conds: Sequence[Conditioning], plan: Sequence[Sampling], steering: Steering, seed: int
) -> tuple[list[Image.Image], list[Reading]]:
    """An image of the last stage for each conditioning, and the oracle's reading of it."""
    images: list[Image.Image] = []
    for first in tqdm(range(0, len(conds), BATCH_SIZE), desc="generating", unit="batch", disable=None):
        batch = Conditioning.cat(list(conds[first : first + BATCH_SIZE]))
        randomness = generators(seed, range(first, min(first + BATCH_SIZE, len(conds))))
        stages = cascade.sample(batch, randomness, plan, steering=steering)
        images += to_images(stages[cascade.stages[-1].name])
    return images, [read(np.array(image)) for image in images]


def _matches(thing: Object, detected: DetectedObject) -> bool:
    return (thing.shape, thing.colour) == (detected.shape, detected.colour)


def _share(detected: DetectedObject, crowd: int, region: Region) -> float:
    """The share of a detected object's area that is in a region."""
    assert detected.shape is not None
    assert detected.colour is not None
    assert detected.size is not None
    thing = Object(detected.shape, detected.colour, detected.size)
    placed = Placed(thing, detected.x, detected.y, radius(detected.size, crowd))
    pixels = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)
    silhouette = draw(placed, "flat", crowd, pixels, pixels, SIDE).silhouette
    return float((silhouette * region.mask.numpy()).sum() / silhouette.sum())


def _content(cases: Sequence[Case], readings: Sequence[Reading]) -> dict[str, float]:
    """The share of images in which each field that the captions name is right."""
    rows = [score(case.scene, case.caption, reading) for case, reading in zip(cases, readings, strict=True)]
    return {name: value for name, value in accuracy(rows).items() if name != "style" and not np.isnan(value)}


def _style_image(case: Case) -> Image.Image:
    assert case.reference is not None
    return Image.fromarray(render(case.reference, STYLE_SIZE))


def _draw_regions(case: Case) -> Image.Image:
    """The painted regions, each in the colour of its object."""
    pixels = np.full((SIDE, SIDE, 3), BACKGROUNDS["gray"], np.uint8)
    for thing, region in zip(case.scene.objects, case.regions, strict=True):
        pixels[region.mask.numpy() > 0.5] = COLOURS[thing.colour]
    return Image.fromarray(pixels)


def _sheet(cases: Sequence[Case], rows: Sequence[list[Image.Image]], columns: int = 8, side: int = 128) -> Image.Image:
    """A column for each case: its caption, then its image in each row."""
    page = Image.new("RGB", (columns * (side + 6), 64 + len(rows) * (side + 6)), "white")
    draw_on = ImageDraw.Draw(page)
    for column, case in enumerate(cases[:columns]):
        left = column * (side + 6) + 3
        draw_on.multiline_text((left, 3), wrap(case.caption.text, side // 6), fill="black", spacing=1)
        for row, images in enumerate(rows):
            shown = images[column].resize((side, side), Image.Resampling.LANCZOS)
            page.paste(shown, (left, 64 + row * (side + 6)))
    return page
