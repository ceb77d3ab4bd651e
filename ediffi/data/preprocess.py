"""Preparing pictures for the last super-resolution, trained on crops (eDiff-I, section 5: random 256² crops)."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def crop_to_tensor(image: Image.Image, size: int, top: int, left: int, crop: int) -> Float[Tensor, "3 crop crop"]:
    """`to_tensor(image, size)[:, top : top + crop, left : left + crop]`, made without the rest: far less work.

    Rounding decides whether a source pixel that ends where an averaged one begins belongs to it, and may decide
    otherwise here; where nothing is resized, or by a whole number, both are equal.

    Raises:
        ValueError: the picture is smaller than `size`, or the crop does not lie in the square of that size.
    """
    if min(image.size) < size:
        raise ValueError(f"a picture of {image.width}x{image.height} is smaller than the {size} pixels asked for")
    if crop < 1 or not (0 <= top <= size - crop and 0 <= left <= size - crop):
        raise ValueError(f"a crop of {crop} pixels at {top}, {left} does not lie in {size}x{size}")
    short = min(image.size)
    width, height = image.width * size // short, image.height * size // short
    left, top = left + (width - size) // 2, top + (height - size) // 2
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + crop) * across, (top + crop) * down)
    pixels = np.array(image.resize((crop, crop), Image.Resampling.BOX, box=box))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
