"""How well a Toybox cascade obeys paint and reference pictures, by the oracle."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from ediffi.diffusion.paint import SIDE, Region, polygon
from ediffi.evaluation.datasets.toybox import (
    BACKGROUNDS,
    COLOURS,
    STYLES,
    Caption,
    Object,
    Reading,
    Scene,
    accuracy,
    caption,
    read,
    render,
    sample_scene,
    score,
)
from ediffi.evaluation.datasets.toybox.caption import NAMEABLE
from ediffi.evaluation.datasets.toybox.oracle import DetectedObject
from ediffi.evaluation.datasets.toybox.render import draw
from ediffi.evaluation.datasets.toybox.scene import Placed, Slot, Split, radius
from ediffi.io.images import to_images
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions, Style
from ediffi.pipeline.stage import Sampling, Steering
from ediffi.registry.random import generators
from ediffi.registry.types import Conditioning
from ediffi.toybox.score import wrap
from ediffi.toybox.shards import in_style

HALF = 0.25
"""Half the side of a painted square, frame units: the largest object fits in."""
INSIDE = 0.5
"""Share of an object that has to lie in its area."""
REFERENCE = 64
"""Side of the reference pictures, that of the Toybox CLIP."""
CHUNK = 20


@dataclass(frozen=True)
class Case:
    """A scene with a caption; to paint, also where things belong; for style, a picture to take it from."""

    scene: Scene
    caption: Caption
    regions: tuple[Region, ...] = ()
    reference: Scene | None = None


def painted_cases(number: int, seed: int = 0, split: Split = "test") -> list[Case]:
    """Scenes of two and three objects in turn: captions that do not say where they stand, regions that do."""
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
    """Scenes of one to three objects in turn, captions that name no style, a reference in each style in turn."""
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
    """Judge paint and style, and write `controls.json`, `paint.png` and `style.png`.

    Args:
        cascade: the model.
        count: cases of each kind.
        seed: of the cases and the pictures.
        paint_weights: each w' to paint with; 0, unpainted, comes first by itself.
        style_scales: each scale to try; none, without the reference, comes first by itself.
        folder: made if it is missing.
        split: "test" has only attribute combinations that training never saw, "train" only others.

    Returns:
        The protocol and, for each weight and scale, the rates of `judge_paint` and `judge_style`.
    """
    painted, styled = painted_cases(count, seed, split), styled_cases(count, seed, split)
    paint = {f"{w:g}": judge_paint(cascade, painted, w, seed) for w in [0.0, *paint_weights]}
    style = {"none": judge_style(cascade, styled, None, seed)}
    style |= {f"{s:g}": judge_style(cascade, styled, s, seed) for s in style_scales}
    folder.mkdir(parents=True, exist_ok=True)
    areas = [_sketch(case) for case in painted]
    references = [Image.fromarray(render(case.reference, REFERENCE)) for case in styled if case.reference]
    _sheet([painted, areas, *(row.pop("images") for row in paint.values())]).save(folder / "paint.png")
    _sheet([styled, references, *(row.pop("images") for row in style.values())]).save(folder / "style.png")
    protocol = {"dataset": "toybox", "split": split, "count": count, "seed": seed, "stage": cascade.stages[-1].name}
    results = {
        **protocol,
        "inside_means": f"at least {INSIDE} of an object in its area",
        "paint": paint,
        "style": style,
    }
    beside = folder / "controls.json.tmp"
    beside.write_text(json.dumps(results, indent=1) + "\n")
    beside.replace(folder / "controls.json")
    return results


def judge_paint(cascade: Cascade, cases: Sequence[Case], paint_weight: float, seed: int = 0) -> dict[str, Any]:
    """Paint each case, read the picture back, and look where its objects lie.

    Args:
        cascade: the model.
        cases: of `painted_cases`.
        paint_weight: w' of the base stage.
        seed: picture k is painted with (seed, k).

    Returns:
        Rates over all objects: `inside`, the right object with at least half of it in its area; `shape`, `colour`,
        `count` and `everything` (but the place) over all pictures; and the `images`.
    """
    plan = cascade.plan(SamplingOptions(paint_weight=paint_weight))
    conds = [cascade.encode([case.caption.text], regions=case.regions) for case in cases]
    images, readings = _paint(cascade, conds, plan, Steering(), seed)
    inside = [
        any(_matches(thing, seen) and _share(seen, len(reading.objects), region) >= INSIDE for seen in reading.objects)
        for case, reading in zip(cases, readings, strict=True)
        for thing, region in zip(case.scene.objects, case.regions, strict=True)
    ]
    return {"inside": float(np.mean(inside)), **_content(cases, readings), "images": images}


def judge_style(
    cascade: Cascade,
    cases: Sequence[Case],
    style_scale: float | None,
    seed: int = 0,
    guidance_scale: float | None = None,
) -> dict[str, Any]:
    """Sample each case in the style of its reference, and read the style back.

    Args:
        cascade: the model.
        cases: of `styled_cases`.
        style_scale: see `ClassifierFreeGuidance`; None leaves the reference out.
        seed: picture k is painted with (seed, k).
        guidance_scale: of the base stage; the model's own by default.

    Returns:
        Rates over the pictures: `style`, that of the reference; what the caption names, as `accuracy` has it; `images`.
    """
    conds = []
    for case in cases:
        assert case.reference is not None
        style = None if style_scale is None else Style(Image.fromarray(render(case.reference, REFERENCE)))
        conds.append(cascade.encode([case.caption.text], style))
    plan = cascade.plan(SamplingOptions(guidance_scale=guidance_scale))
    images, readings = _paint(cascade, conds, plan, Steering(style_scale=style_scale or 0.0), seed)
    styles = [
        case.reference.style == reading.style for case, reading in zip(cases, readings, strict=True) if case.reference
    ]
    return {"style": float(np.mean(styles)), **_content(cases, readings), "images": images}


def _paint(
    cascade: Cascade, conds: Sequence[Conditioning], plan: Sequence[Sampling], steering: Steering, seed: int
) -> tuple[list[Image.Image], list[Reading]]:
    """A picture of the last stage for each conditioning, and what the oracle reads in it."""
    images: list[Image.Image] = []
    for first in tqdm(range(0, len(conds), CHUNK), desc="painting", unit="batch", disable=None):
        chunk = Conditioning.cat(list(conds[first : first + CHUNK]))
        randomness = generators(seed, range(first, min(first + CHUNK, len(conds))))
        pictures = cascade.sample(chunk, randomness, plan, steering=steering)
        images += to_images(pictures[cascade.stages[-1].name])
    return images, [read(np.array(image)) for image in images]


def _matches(thing: Object, seen: DetectedObject) -> bool:
    return (thing.shape, thing.colour) == (seen.shape, seen.colour)


def _share(seen: DetectedObject, crowd: int, region: Region) -> float:
    """How much of an object, as the oracle sees it, lies in a region: intersection over the object's area."""
    assert seen.shape is not None
    assert seen.colour is not None
    assert seen.size is not None
    placed = Placed(Object(seen.shape, seen.colour, seen.size), seen.x, seen.y, radius(seen.size, crowd))
    pixels = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)
    silhouette = draw(placed, "flat", crowd, pixels, pixels, SIDE).silhouette
    return float((silhouette * region.mask.numpy()).sum() / silhouette.sum())


def _content(cases: Sequence[Case], readings: Sequence[Reading]) -> dict[str, float]:
    """What the captions name, as the share of pictures that are right in it."""
    rows = [score(case.scene, case.caption, reading) for case, reading in zip(cases, readings, strict=True)]
    return {name: value for name, value in accuracy(rows).items() if name != "style" and not np.isnan(value)}


def _sketch(case: Case) -> Image.Image:
    """The painted areas, each in the colour of its object."""
    picture = np.full((SIDE, SIDE, 3), BACKGROUNDS["gray"], np.uint8)
    for thing, region in zip(case.scene.objects, case.regions, strict=True):
        picture[region.mask.numpy() > 0.5] = COLOURS[thing.colour]
    return Image.fromarray(picture)


def _sheet(rows: Sequence[Any], columns: int = 8, side: int = 128) -> Image.Image:
    """A column for each case: its caption, then what each row has of it."""
    cases, *pictures = rows
    page = Image.new("RGB", (columns * (side + 6), 64 + len(pictures) * (side + 6)), "white")
    draw_on = ImageDraw.Draw(page)
    for column, case in enumerate(cases[:columns]):
        left = column * (side + 6) + 3
        draw_on.multiline_text((left, 3), wrap(case.caption.text, side // 6), fill="black", spacing=1)
        for row, images in enumerate(pictures):
            shown = images[column].resize((side, side), Image.Resampling.LANCZOS)
            page.paste(shown, (left, 64 + row * (side + 6)))
    return page
