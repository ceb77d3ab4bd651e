"""Scenes as shards in img2dataset's layout: KEY.jpg or KEY.png, KEY.txt and KEY.json."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ediffi.data.index import INDEX, write_index
from ediffi.data.shards import write_tar
from ediffi.io.files import replace
from emojiworld.caption import Caption, describe, facts
from emojiworld.scene import Scene, Split, render, sample_scene
from emojiworld.world import World

JPEG_FROM = 128  # smaller pictures are PNG: every pixel of them counts


def scene_and_caption(world: World, seed: int, split: Split, index: int) -> tuple[Scene, Caption]:
    """Scene `index` of a split, and its caption."""
    rng = np.random.default_rng([seed, split == "test", index])
    scene = sample_scene(world, rng, split)
    return scene, describe(scene, rng)


def write_scenes(
    world: World, output: Path, size: int, count: int, split: Split = "train", seed: int = 0, per_shard: int = 2000
) -> Path:
    """Write `count` scenes as shards of `per_shard`, `held_out.json`, and an index; returns the index's path.

    The scenes do not depend on `size`. FileExistsError: the folder has an index already.
    """
    for name, value, least in (("size", size, 16), ("count", count, 1), ("per_shard", per_shard, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if (output / INDEX).exists():
        raise FileExistsError(f"{output / INDEX} exists: these shards are complete; choose another folder or remove it")
    output.mkdir(parents=True, exist_ok=True)
    replace(output / "held_out.json", json.dumps(world.held_out(), indent=1))
    shards: list[dict[str, Any]] = []
    with tqdm(total=count, desc=f"{split} scenes", unit="scene", mininterval=2) as progress:

        def samples(first: int) -> Iterator[dict[str, Any]]:
            for index in range(first, min(first + per_shard, count)):
                yield _sample(world, size, split, seed, index)
                progress.update()

        for first in range(0, count, per_shard):
            name = f"{len(shards):05d}.tar"
            shards.append({"file": name, **write_tar(output / name, samples(first))})
    description = {"dataset": "emoji", "split": split, "seed": seed, "image_size": size, "styles": world.styles}
    return write_index(output / INDEX, shards, {**description, "concepts": len(world.concepts)})


def _sample(world: World, size: int, split: Split, seed: int, index: int) -> dict[str, Any]:
    scene, caption = scene_and_caption(world, seed, split, index)
    key = f"{index:09d}"
    about = {"key": key, "status": "success", "width": size, "height": size, "seed": seed, "split": split}
    suffix, picture = _encoded(render(world, scene, size))
    metadata = {**about, "caption": caption.text, **facts(scene, caption)}
    return {"__key__": key, suffix: picture, "txt": caption.text.encode(), "json": json.dumps(metadata).encode()}


def _encoded(image: Image.Image) -> tuple[str, bytes]:
    file = io.BytesIO()
    if image.width < JPEG_FROM:
        image.save(file, "png")
        return "png", file.getvalue()
    image.save(file, "jpeg", quality=92, subsampling=0)
    return "jpg", file.getvalue()
