"""What a model paints for its card."""

from pathlib import Path

from PIL import Image

from ediffi.io import png
from ediffi.pipeline import folder
from ediffi.pipeline.cascade import Cascade

SAMPLES = "samples.png"
SIDE = 256
"""Of a picture in the sample grid, at most; larger stages do not paint for it."""
PROMPTS = (
    "a photograph of a dog in the snow",
    "an oil painting of a lighthouse at night",
    "a red circle left of a blue square",
    "a blue cross above a purple square, outlined",
    "a large green triangle on a pink background",
    "a small orange triangle, striped",
)
COUNT = 4
"""How many are painted: the first whose words a model knows, as far as its encoders can tell."""


def paint(place: Path, output: Path, device: str = "cpu") -> list[str]:
    """Paint the sample grid: a few prompts, seed 0, the model's own settings, the stages up to 256 pixels.

    Returns:
        The prompts, those whose words the model knows; none if it paints nothing from a prompt.
    """
    config = folder.read_config(place)
    if not config["encoders"] or config["stages"][0]["aug_level"] is not None:
        return []
    small = [entry["name"] for entry in config["stages"] if entry["resolution"] <= SIDE]
    cascade = Cascade.from_pretrained(place, device, "stream", stages=small or [config["stages"][0]["name"]])
    if not cascade.readers:
        return []
    known = [prompt for prompt in PROMPTS if not cascade.unknown_words(prompt)]
    prompts = (known or list(PROMPTS))[:COUNT]
    pictures = cascade(prompts)
    side = min(SIDE, pictures.images[0].width)
    grid = Image.new("RGB", (side * len(prompts), side))
    for column, image in enumerate(pictures.images):
        grid.paste(image.resize((side, side)), (side * column, 0))
    png.save(grid, output, pictures.settings)
    return prompts
