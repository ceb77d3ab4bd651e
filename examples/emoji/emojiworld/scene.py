"""A scene: one to three drawings of one artist on a plain background; where they stand, and the picture of it.

Lengths are fractions of the side; x grows to the right, y downwards. A scene is a pure function of (seed, index).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image

from ediffi.io.images import open_image
from emojiworld.world import BACKGROUNDS, DARK, Concept, World, never_together, pair_held_out

Split = Literal["train", "test"]
Relation = Literal["alone", "left of", "right of", "above", "below", "and"]
Box = tuple[float, float, float, float]  # left, top, right, bottom

COUNT_SHARES: Final = (0.5, 0.4, 0.1)  # of scenes of one, two and three things
RELATIONS: Final[tuple[Relation, ...]] = ("left of", "right of", "above", "below", "and")
SIDES: Final = (16, 1024)  # pixels: the least and the most of a picture; sprites have 256
TRIES: Final = 1000  # to find a thing that may stand beside the others


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `relation` says how the first thing stands to the second. `boxes` are those of the drawn
    pixels, by thing."""

    style: str
    background: str
    concepts: tuple[Concept, ...]
    boxes: tuple[Box, ...]
    relation: Relation

    @property
    def held_out(self) -> bool:
        """Whether training may not see it."""
        codes = [concept.hexcode for concept in self.concepts]
        apart = any(never_together(a, b) for i, a in enumerate(codes) for b in codes[i + 1 :])
        return apart or any(pair_held_out(code, self.style) for code in codes)


def sample_scene(world: World, rng: np.random.Generator, split: Split = "train", count: int | None = None) -> Scene:
    """A random scene of `count` things, drawn by `COUNT_SHARES` if None. "train" leaves out whatever is held out,
    "test" takes everything as it comes. Every concept is the first thing equally often."""
    number = int(rng.choice(3, p=COUNT_SHARES)) + 1 if count is None else count
    for _ in range(TRIES):
        first = world.concepts[rng.integers(len(world.concepts))]
        drawn = world.drawn[first.hexcode]
        style = drawn[rng.integers(len(drawn))]
        others = [concept for concept in world.having(style) if concept != first]
        if len(others) < number - 1:
            continue
        chosen = (first, *(others[i] for i in rng.choice(len(others), number - 1, replace=False)))
        relation: Relation = "alone" if number == 1 else RELATIONS[rng.integers(5)] if number == 2 else "and"
        backgrounds = [name for name in BACKGROUNDS if not (name == DARK and style == "fluent-mono")]
        background = backgrounds[rng.integers(len(backgrounds))]
        scene = Scene(style, background, chosen, _places(world, style, chosen, relation, rng), relation)
        if split == "test" or not scene.held_out:
            return scene
    raise ValueError(f"no {split} scene of {number} in {TRIES} tries: give more concepts or styles")


def check_numbers(size: int, **at_least: tuple[int, int]) -> None:
    """ValueError: the side of pictures is not in `SIDES`, or another number is below its least: name=(value, least)."""
    if not SIDES[0] <= size <= SIDES[1]:
        raise ValueError(f"size must be from {SIDES[0]} to {SIDES[1]}, got {size}")
    for name, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def render(world: World, scene: Scene, size: int) -> Image.Image:
    """The picture, `size` a side."""
    canvas = Image.new("RGB", (size, size), BACKGROUNDS[scene.background])
    for concept, (left, top, right, bottom) in zip(scene.concepts, scene.boxes, strict=True):
        drawing = _drawing(world.sprites / scene.style / f"{concept.hexcode}.webp")
        at = round(left * size), round(top * size)
        shape = max(1, round((right - left) * size)), max(1, round((bottom - top) * size))
        drawing = drawing.resize(shape, Image.Resampling.LANCZOS)
        canvas.paste(drawing, at, drawing)
    return canvas


def _places(
    world: World, style: str, concepts: tuple[Concept, ...], relation: Relation, rng: np.random.Generator
) -> tuple[Box, ...]:
    """A box for each drawing, of its own shape, somewhere in its slot."""
    boxes = []
    least, most = (0.6, 0.95) if len(concepts) == 1 else (0.42, 0.5)
    for concept, (left, top, right, bottom) in zip(concepts, _slots(len(concepts), relation, rng), strict=True):
        wide, high = _drawing(world.sprites / style / f"{concept.hexcode}.webp").size
        longest = rng.uniform(least, most)
        width, height = longest * wide / max(wide, high), longest * high / max(wide, high)
        # Along the slot a thing keeps nearer to the middle: "left of" must not look like "above".
        x = left + (right - left - width) * _middling(rng, narrow=len(concepts) > 1 and right - left == 1)
        y = top + (bottom - top - height) * _middling(rng, narrow=len(concepts) > 1 and bottom - top == 1)
        boxes.append(tuple(round(float(value), 4) for value in (x, y, x + width, y + height)))
    return tuple(boxes)  # type: ignore[arg-type]


def _slots(count: int, relation: Relation, rng: np.random.Generator) -> list[Box]:
    """The part of the frame that each thing keeps to."""
    if count == 1:
        return [(0.0, 0.0, 1.0, 1.0)]
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    upper, lower = (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)
    if count == 2:
        known = {
            "left of": [left, right],
            "right of": [right, left],
            "above": [upper, lower],
            "below": [lower, upper],
        }
        return known.get(relation) or known[RELATIONS[rng.integers(4)]]
    quarters = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)]
    if rng.random() < 0.5:
        return [quarters[0], quarters[1], lower]
    return [upper, quarters[2], quarters[3]]


def _middling(rng: np.random.Generator, narrow: bool) -> float:
    """A number from 0 to 1, or from 0.25 to 0.75, more often in the middle."""
    value = float(rng.beta(2, 2))
    return 0.25 + value / 2 if narrow else value


@lru_cache(maxsize=2048)
def _drawing(path: Path) -> Image.Image:
    """A sprite as RGBA, cut to its visible pixels. ValueError names one that cannot be read."""
    image = open_image(path).convert("RGBA")
    box = image.getchannel("A").point(lambda value: 255 * (value > 8)).getbbox()
    if box is None:
        raise ValueError(f"{path} is empty: nothing in it is visible")
    return image.crop(box)
