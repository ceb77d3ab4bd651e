"""The prompts of the suite `emoji`: six kinds, each with its truth, its picture, and its areas or style image."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from ediffi.evaluation.datasets.emoji.dataset import FILE, KINDS
from ediffi.io.files import replace, replacing_folder
from emojiworld.caption import SIDE, Caption, Length, describe, facts
from emojiworld.scene import Scene, check_numbers, render, sample_scene
from emojiworld.world import World, bare, pair_held_out

HALVES: Final = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
"""Left, right, upper and lower: the areas in which the things of a painted prompt may be."""


def write_suite(
    world: World, output: Path, size: int = 64, per_kind: int = 500, length: Length = "short", seed: int = 0
) -> Path:
    """Write `per_kind` prompts of each kind of `KINDS` and their pictures; returns the path of their list.

    Prompt k of a kind is a function of (seed, k). FileExistsError: the folder is there.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another folder or remove it")
    check_numbers(size, per_kind=(per_kind, 1), seed=(seed, 0))
    lines = []
    with replacing_folder(output) as folder:
        for name in ("pictures", "styles"):
            (folder / name).mkdir()
        for number, kind in enumerate(KINDS):
            for index in tqdm(range(per_kind), desc=kind, unit="prompt", mininterval=2):
                rng = np.random.default_rng([seed, 11 + number, index])
                scene, caption, more = _prompt(world, kind, length, rng)
                key = f"{number}-{index:05d}"
                render(world, scene, size).save(folder / "pictures" / f"{key}.png")
                if kind == "style image":
                    render(world, _other(world, scene, rng), size).save(folder / "styles" / f"{key}.png")
                truth = {"key": key, "kind": kind, "caption": caption.text, **facts(scene, caption), **more}
                lines.append(json.dumps(truth))
        replace(folder / FILE, "\n".join(lines) + "\n")
    return output / FILE


def _prompt(world: World, kind: str, length: Length, rng: np.random.Generator) -> tuple[Scene, Caption, dict[str, Any]]:
    """A scene of that kind, its prompt, and what else the prompt comes with."""
    if kind == "held-out pairs":
        scene = _scene(world, rng, "test", lambda one: pair_held_out(one.concepts[0].hexcode, one.style))
        return scene, describe(scene, rng, length, names_style=True), {}
    if kind == "two things":
        scene = _scene(world, rng, "train", lambda one: one.relation in SIDE, count=2)
        return scene, describe(scene, rng, length, names_style=True), {}
    if kind == "unseen synonyms":
        scene = _scene(world, rng, "train", lambda one: bool(one.concepts[0].unseen))
        words = scene.concepts[0].unseen
        return scene, describe(scene, rng, length, True, [words[rng.integers(len(words))]]), {}
    if kind == "style image":
        scene = _scene(world, rng, "train", lambda one: True)
        return scene, describe(scene, rng, length, names_style=False), {}
    if kind == "painted areas":
        scene = _scene(world, rng, "train", lambda one: one.relation == "and", count=2)
        caption = describe(scene, rng, length, names_style=True)
        boxes = [_half_around(box, other) for box, other in zip(scene.boxes, reversed(scene.boxes), strict=True)]
        phrases = [bare(mention) for mention in caption.mentions]
        return scene, caption, {"areas": [{"phrase": p, "box": b} for p, b in zip(phrases, boxes, strict=True)]}
    scene = _scene(world, rng, "train", lambda one: True)
    return scene, describe(scene, rng, length, names_style=True), {}


def _scene(world: World, rng: np.random.Generator, split: Any, fits: Any, count: int = 1) -> Scene:
    """A scene of `count` things that fits. ValueError: none does in many tries."""
    for _ in range(5000):
        if fits(scene := sample_scene(world, rng, split, count)):
            return scene
    raise ValueError("the world has no scene for a kind of prompts: give more concepts or styles")


def _other(world: World, scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene of another thing in the same style, which training may have seen."""
    return _scene(world, rng, "train", lambda one: one.style == scene.style and one.concepts != scene.concepts)


def _half_around(box: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    """The half of the picture that holds a thing, on the side of it that is not the other thing's."""
    x, y = (box[0] + box[2] - other[0] - other[2]) / 2, (box[1] + box[3] - other[1] - other[3]) / 2
    return HALVES[int(x > 0)] if abs(x) > abs(y) else HALVES[2 + int(y > 0)]
