"""Scenes as shards in img2dataset's layout: KEY.jpg or KEY.png, KEY.txt and KEY.json."""

import io
import json
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ediffi.data.index import INDEX, write_index
from ediffi.data.shards import write_tar
from ediffi.io.files import replace
from emojiworld.caption import Caption, describe, describe_style, facts
from emojiworld.scene import Scene, Split, check_numbers, render, sample_scene
from emojiworld.world import World

HELD_OUT = "held_out.json"
JPEG_FROM = 128  # smaller pictures are PNG: every pixel of them counts


def scene_and_caption(
    world: World, seed: int, split: Split, index: int, style_share: float = 0.0
) -> tuple[Scene, Caption]:
    """Scene `index` of a split, and its caption, which tells the style alone in a share of the scenes."""
    rng = np.random.default_rng([seed, split == "test", index])
    scene = sample_scene(world, rng, split)
    caption = describe(scene, rng)
    return scene, describe_style(scene, rng) if rng.random() < style_share else caption


def write_scenes(
    world: World,
    output: Path,
    size: int,
    count: int,
    split: Split = "train",
    seed: int = 0,
    per_shard: int = 2000,
    workers: int = 1,
    style_share: float = 0.0,
) -> Path:
    """Write `count` scenes as shards of `per_shard`, `held_out.json`, and an index; returns the index's path.

    The scenes do not depend on `size` or `style_share`, the share of captions that tell the style alone, nor anything
    on the number of processes, `workers`. FileExistsError: the folder has an index already.
    """
    check_numbers(size, count=(count, 1), per_shard=(per_shard, 1), seed=(seed, 0), workers=(workers, 1))
    if not 0 <= style_share <= 1:
        raise ValueError(f"the share of style captions must be from 0 to 1, got {style_share}")
    parts = [range(first, min(first + per_shard, count)) for first in range(0, count, per_shard)]
    begin_shards(output, len(parts))
    replace(output / HELD_OUT, json.dumps(world.held_out(), indent=1))
    write = partial(_write_shard, world, output, size, split, seed, style_share)
    shards = in_processes(write, list(enumerate(parts)), workers, f"{split} scenes")
    description = {"dataset": "emoji", "split": split, "seed": seed, "image_size": size, "styles": world.styles}
    if style_share:
        description["style_captions"] = style_share
    return write_index(output / INDEX, shards, {**description, "concepts": len(world.concepts)})


def begin_shards(output: Path, count: int) -> None:
    """Make a folder to write `count` shards to, or take one in which that was interrupted; FileExistsError: it has an
    index already, or something else."""
    if (output / INDEX).exists():
        raise FileExistsError(f"{output / INDEX} exists: these shards are complete; choose another folder or remove it")
    output.mkdir(parents=True, exist_ok=True)
    ours = {HELD_OUT, *map(_file_name, range(count))}
    if others := sorted(path.name for path in output.iterdir() if path.name.removesuffix(".tmp") not in ours):
        raise FileExistsError(f"{output} holds {others[0]}, which is none of these shards; choose another folder")


def in_processes(
    write: Callable[[Any], dict[str, Any]], shards: list[Any], workers: int, name: str
) -> list[dict[str, Any]]:
    """What `write` returns of each shard, in order, with a bar; in so many processes."""
    bar = partial(tqdm, desc=name, unit="shard", total=len(shards), mininterval=2)
    if workers == 1:
        return list(bar(map(write, shards)))
    ignoring = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}  # Ctrl+C is the first's
    with ProcessPoolExecutor(workers, **ignoring) as pool:
        return list(bar(pool.map(write, shards)))


def _write_shard(
    world: World, output: Path, size: int, split: Split, seed: int, style_share: float, shard: tuple[int, range]
) -> dict[str, Any]:
    number, scenes = shard
    name = _file_name(number)
    samples = (_sample(world, size, split, seed, style_share, index) for index in scenes)
    return {"file": name, **write_tar(output / name, samples)}


def _file_name(number: int) -> str:
    return f"{number:05d}.tar"


def _sample(world: World, size: int, split: Split, seed: int, style_share: float, index: int) -> dict[str, Any]:
    scene, caption = scene_and_caption(world, seed, split, index, style_share)
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
