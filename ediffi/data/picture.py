"""Pictures to tensors and back; tensors are in [-1, 1]. And pictures from people, opened with care."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from evaluation.pictures import reading


def open_picture(path: Path) -> Image.Image:
    """The picture in a file, turned as its EXIF says, in its own mode; raises as `reading.open_picture` does."""
    image = reading.open_picture(path)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def to_tensor(image: Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    """Shortest side to `size` by area averaging, then the centre square (eDiff-I, section 5: resize, centre crop).

    Raises:
        ValueError: the picture is smaller than `size`.
    """
    short = min(image.size)
    if short < size:
        raise ValueError(f"a picture of {image.width}x{image.height} is smaller than the {size} pixels asked for")
    if short > size:
        image = image.resize((image.width * size // short, image.height * size // short), Image.Resampling.BOX)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.array(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


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


def to_images(tensor: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """RGB pictures of tensors in [-1, 1]; values beyond are clipped."""
    pixels = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
