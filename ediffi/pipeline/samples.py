"""The sample grid of a model card: which prompts, from which stages, as one PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.hub.config import read_config
from ediffi.io import png
from ediffi.pipeline.conditioning import Encoders, text_encoders, unknown_words

SIDE = 256
"""Largest side of an image in the grid, in pixels; stages with larger images are not sampled."""
PROMPTS = (
    "a photograph of a dog in the snow",
    "an oil painting of a lighthouse at night",
    "a red circle left of a blue square",
    "a blue cross above a purple square, outlined",
    "a large green triangle on a pink background",
    "a small orange triangle, striped",
)
COUNT = 4
"""Images in the grid."""


def sampled_stages(folder: Path) -> list[str]:
    """Names of the stages of a model folder that make the grid: those up to `SIDE` pixels, and always the first."""
    stages = read_config(folder)["stages"]
    return [entry["name"] for entry in stages if entry["resolution"] <= SIDE] or [stages[0]["name"]]


def sample_prompts(encoders: Encoders) -> list[str]:
    """The first prompts whose words the encoders know, as far as they can tell; none if no encoder reads text."""
    if not text_encoders(encoders):
        return []
    known = [prompt for prompt in PROMPTS if not unknown_words(encoders, prompt)]
    return (known or list(PROMPTS))[:COUNT]


def save_grid(images: Sequence[Image.Image], path: Path, settings: Mapping[str, Any]) -> None:
    """Write images of one size side by side, at most `SIDE` pixels each, with the settings that repeat them."""
    side = min(SIDE, images[0].width)
    grid = Image.new("RGB", (side * len(images), side))
    for column, image in enumerate(images):
        grid.paste(image.resize((side, side)), (side * column, 0))
    png.save(grid, path, settings)
