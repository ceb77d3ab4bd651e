"""Toybox as training data: rendered scenes, captions and their embeddings, in the shards that every stage reads."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image

from ediffi.data.embedding.identity import build, identity
from ediffi.data.shards import Sample, embedding_tensors, write_shards
from ediffi.evaluation.datasets.toybox import NAMEABLE, Length, Scene, Split, caption, render, sample_scene
from ediffi.hub.config import Part
from ediffi.io.images import to_tensor
from ediffi.io.progress import Progress
from ediffi.registry.encoders import reads_text

CHUNK: Final = 256
CLIP_SIZE: Final = 64

# What the CLIP image embedding of a sample shows: its own image, as in the paper, or another one in its style.
StyleImage = Literal["own", "style"]


def write_toybox(
    output: Path,
    encoder_folder: Path,
    image_size: int,
    count: int,
    split: Split = "train",
    seed: int = 0,
    long_share: float = 0.3,
    samples_per_shard: int = 2000,
    reference: StyleImage = "own",
    layout_share: float = 1.0,
) -> Path:
    """Render scenes, caption them, embed both with the `t5` and `clip` of `encoder_folder`, and write shards.

    `long_share` is the share of long captions, `layout_share` that of the short captions of several objects that name
    the layout. The CLIP image embedding of "own" is the paper's. With "style" (our choice for a world so small that its
    CLIP embedding tells everything about an image) a stage learns to take only the style from a style image. Returns
    the path of the index.
    """
    for name, value in (("image_size", image_size), ("count", count), ("samples_per_shard", samples_per_shard)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    folders = {"t5": "t5", "clip_text": "clip", "clip_image": "clip"}
    parts = {source: Part(source, {"path": str(encoder_folder / name)}) for source, name in folders.items()}
    encoders = build(parts)
    naming = {**NAMEABLE, "layout": layout_share}

    def samples() -> Iterator[Sample]:
        for first in range(0, count, CHUNK):
            keys = range(first, min(first + CHUNK, count))
            rngs = [np.random.default_rng([seed, split == "test", key]) for key in keys]
            scenes = [sample_scene(rng, split) for rng in rngs]
            lengths: list[Length] = ["long" if rng.random() < long_share else "short" for rng in rngs]
            texts = [caption(*case, naming).text for case in zip(scenes, rngs, lengths, strict=True)]
            images = [Image.fromarray(render(scene, image_size)) for scene in scenes]
            clip_scenes, clip_images = scenes, images
            if reference != "own":
                clip_scenes = [in_style(scene.style, rng) for scene, rng in zip(scenes, rngs, strict=True)]
            if reference != "own" or image_size < CLIP_SIZE:
                clip_images = [Image.fromarray(render(scene, CLIP_SIZE)) for scene in clip_scenes]
            with torch.inference_mode():
                tensors = torch.stack([to_tensor(image, CLIP_SIZE) for image in clip_images])
                sources = {name: part(texts if reads_text(part) else tensors) for name, part in encoders.items()}
            for row, key in enumerate(keys):
                name, facts = f"{split}-{seed}-{key:07d}", dataclasses.asdict(scenes[row])
                yield Sample(name, images[row], texts[row], embedding_tensors(sources, row), facts)

    description = {
        **{"dataset": "toybox", "split": split, "seed": seed, "image_size": image_size},
        **{"long_share": long_share, "reference": reference, "layout_share": layout_share},
        "encoders": {source: identity(parts[source], encoder) for source, encoder in encoders.items()},
        "dtype": "bfloat16",
    }
    progress = Progress(samples(), total=count, desc=f"{split} scenes", unit="scene")
    return write_shards(output, iter(progress), samples_per_shard, description)


def in_style(style: str, rng: np.random.Generator, split: Split = "train") -> Scene:
    """A random scene in the given style."""
    while (scene := sample_scene(rng, split)).style != style:
        pass
    return scene
