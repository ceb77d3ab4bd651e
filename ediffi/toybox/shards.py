"""Toybox as training data: rendered scenes with captions and their embeddings, in the shards every stage trains on."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ediffi.data.embedding.identity import build, identity
from ediffi.data.shards import Sample, embedding_tensors, write_shards
from ediffi.evaluation.datasets.toybox import Scene, caption, render, sample_scene
from ediffi.evaluation.datasets.toybox.caption import NAMEABLE, Length
from ediffi.evaluation.datasets.toybox.scene import Split
from ediffi.hub.config import Part
from ediffi.io.images import to_tensor
from ediffi.registry.encoders import reads_text
from ediffi.registry.types import Encoder

CHUNK = 256
CLIP_SIZE = 64

Reference = Literal["own", "style"]
"""What the CLIP image embedding of a sample shows: its own picture, as in the paper, or another one in its style."""


def write_toybox(
    output: Path,
    encoder_folder: Path,
    image_size: int,
    count: int,
    split: Split = "train",
    seed: int = 0,
    long_share: float = 0.3,
    samples_per_shard: int = 2000,
    reference: Reference = "own",
    layout_share: float = 1.0,
) -> Path:
    """Render scenes, caption them, embed both, and write shards.

    Args:
        output: folder of the shards.
        encoder_folder: folder with `t5` and `clip` (as in a cascade's `encoders`).
        image_size: side of the pictures in pixels.
        count: how many samples.
        split: "train" leaves the held-out combinations out, "test" has only them.
        seed: of the scenes and the captions.
        long_share: share of the captions that are long.
        samples_per_shard: samples a tar.
        reference: what the CLIP image embedding shows. "own" is the paper's. With "style" (our choice for a world so
            small that its CLIP tells everything there is in a picture) a stage learns to take the style of a reference
            and nothing else.
        layout_share: share of the short captions of several objects that say where they stand.

    Returns:
        The path of the index.

    Raises:
        ValueError: a size or a count is not positive.
    """
    for name, value in (("image_size", image_size), ("count", count), ("samples_per_shard", samples_per_shard)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    parts = {
        "t5": Part("t5", {"path": str(encoder_folder / "t5")}),
        "clip_text": Part("clip_text", {"path": str(encoder_folder / "clip")}),
        "clip_image": Part("clip_image", {"path": str(encoder_folder / "clip")}),
    }
    built = build(parts)
    description = {
        "dataset": "toybox",
        "split": split,
        "seed": seed,
        "image_size": image_size,
        "long_share": long_share,
        "reference": reference,
        "layout_share": layout_share,
        "encoders": {source: identity(parts[source], encoder) for source, encoder in built.items()},
        "dtype": "bfloat16",
    }
    samples = _samples(built, image_size, count, split, seed, long_share, reference, layout_share)
    progress = tqdm(samples, total=count, desc=f"{split} scenes", unit="scene")
    return write_shards(output, iter(progress), samples_per_shard, description)


def _samples(
    built: Mapping[str, Encoder],
    image_size: int,
    count: int,
    split: Split,
    seed: int,
    long_share: float,
    reference: Reference,
    layout_share: float,
) -> Iterator[Sample]:
    naming = {**NAMEABLE, "layout": layout_share}
    for first in range(0, count, CHUNK):
        keys = range(first, min(first + CHUNK, count))
        rngs = [np.random.default_rng([seed, split == "test", key]) for key in keys]
        scenes = [sample_scene(rng, split) for rng in rngs]
        lengths: list[Length] = ["long" if rng.random() < long_share else "short" for rng in rngs]
        texts = [caption(*parts, naming).text for parts in zip(scenes, rngs, lengths, strict=True)]
        pictures = [Image.fromarray(render(scene, image_size)) for scene in scenes]
        seen_scenes = (
            scenes
            if reference == "own"
            else [in_style(scene.style, rng) for scene, rng in zip(scenes, rngs, strict=True)]
        )
        same = reference == "own" and image_size >= CLIP_SIZE
        seen = pictures if same else [Image.fromarray(render(scene, CLIP_SIZE)) for scene in seen_scenes]
        with torch.inference_mode():
            shown = torch.stack([to_tensor(picture, CLIP_SIZE) for picture in seen])
            sources = {
                source: encoder(texts if reads_text(encoder) else shown) for source, encoder in built.items()
            }
        for row, key in enumerate(keys):
            yield Sample(
                key=f"{split}-{seed}-{key:07d}",
                image=pictures[row],
                caption=texts[row],
                embeddings=embedding_tensors(sources, row),
                metadata=dataclasses.asdict(scenes[row]),
            )


def in_style(style: str, rng: np.random.Generator, split: Split = "train") -> Scene:
    """A random scene in the given style."""
    while (scene := sample_scene(rng, split)).style != style:
        pass
    return scene
