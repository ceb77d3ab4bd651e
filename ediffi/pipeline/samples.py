"""The sample grid of a model card: a few prompts, each at seed 0 with the model's own settings."""

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ediffi.hub.config import read_config
from ediffi.io import png
from ediffi.pipeline.conditioning import text_encoders, unknown_words

if TYPE_CHECKING:
    from ediffi.pipeline.cascade import Cascade

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
"""Images in the grid: the first prompts whose words the model knows, as far as its encoders can tell."""


def sampled_stages(folder: Path) -> list[str]:
    """The stages of a model folder that the grid is sampled with: those up to `SIDE` pixels, and always the first."""
    stages = read_config(folder)["stages"]
    return [entry["name"] for entry in stages if entry["resolution"] <= SIDE] or [stages[0]["name"]]


def paint_samples(cascade: "Cascade", output: Path) -> list[str]:
    """Sample the grid and write it to a PNG file.

    Returns:
        The prompts; none, and no file, if no encoder reads text.
    """
    if not text_encoders(cascade.encoders):
        return []
    known = [prompt for prompt in PROMPTS if not unknown_words(cascade.encoders, prompt)]
    prompts = (known or list(PROMPTS))[:COUNT]
    made = cascade(prompts)
    side = min(SIDE, made.images[0].width)
    grid = Image.new("RGB", (side * len(prompts), side))
    for column, image in enumerate(made.images):
        grid.paste(image.resize((side, side)), (side * column, 0))
    png.save(grid, output, made.settings)
    return prompts
