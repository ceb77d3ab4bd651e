"""The one way in for images and masks: a path, a file's content, a Pillow image, a NumPy array or a tensor.

An image comes out as viewers show it, in 8-bit RGB; a mask as numbers from 0 to 1.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ediffi.io.images import (
    WHITE,
    BadImageError,
    Color,
    check_size,
    decoded,
    deep_levels,
    is_deep,
    on_background,
    open_image,
    rgb,
    rgba,
)

logger = logging.getLogger(__name__)

ImageInput = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""An image or a mask as callers have it.

A `str` is a path. Arrays are [h, w] or [h, w, c], tensors [h, w], [c, h, w] or [1, c, h, w], with 1 (gray), 2 (gray and
alpha), 3 (RGB) or 4 channels (RGB and alpha). Floats are from 0 to 1, bytes and other integers from 0 to 255, uint16
from 0 to 65535.
"""
FAINTEST = 1 / 16
"""A mask of integers whose largest value is below this share of white is refused: it is one of labels, or an error."""
MAX_CHROMA = 32
"""How far the channels of a mask may lie apart, of 255: JPEG makes gray a little coloured."""


def read_image(value: ImageInput, name: str = "the image", background: Color = WHITE) -> Image.Image:
    """An image as viewers show it, in 8-bit RGB, with its settings of EXIF applied and the first frame of several.

    It is laid on `background` where it is transparent, 16-bit values lose their low byte, and floats from 0 to 1 are
    rounded to the nearest of 255.

    Args:
        value: the image.
        name: what messages call it; a path is called by itself.
        background: under transparent pixels.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: it is no image, broken, too large, or has values that are not finite or out of range.
    """
    image, name = _image(value, name)
    if image.info.get("frames", 1) > 1 and image.format != "MPO":  # an MPO's other frames are of the same photograph
        logger.warning("%s is animated: its first frame is used", name)
    try:
        return rgb(image, background)
    except BadImageError as error:
        raise BadImageError(f"{name} {error}") from None


def read_rgba(value: ImageInput, name: str = "the image") -> UInt8[np.ndarray, "h w 4"]:
    """The pixels of an image with their opacity; arguments and errors as `read_image`."""
    image, name = _image(value, name)
    alpha = np.full((image.height, image.width, 1), 255, np.uint8)
    try:
        if image.has_transparency_data:
            return np.asarray(rgba(image))
        return np.concatenate([np.asarray(rgb(image)), alpha], -1)
    except BadImageError as error:
        raise BadImageError(f"{name} {error}") from None


def read_mask(value: ImageInput, name: str = "the mask") -> Float[Tensor, "h w"]:
    """A mask as numbers from 0 (black) to 1 (white), softness kept; arguments and errors as `read_image`.

    Transparent pixels are black, so that white strokes on a transparent layer are the mask. Integers that are only 0
    and 1 are a mask of labels: 1 is white.

    Raises:
        BadImageError: it has colours, or is nearly black everywhere, as labels from 0 to 3 are.
    """
    image, name = _image(value, name)
    try:
        levels, white = _gray_levels(image)
    except BadImageError as error:
        raise BadImageError(f"{name} {error}") from None
    largest = float(levels.max())
    if white > 1 and largest == 1 and np.isin(levels, (0, 1)).all():
        white = 1.0
    if white > 1 and 0 < largest < FAINTEST * white:
        raise BadImageError(
            f"{name} is black nearly everywhere: its largest value is {largest:g}, white is {white:g}; "
            "of a mask of labels, give one label as white"
        )
    return torch.from_numpy(levels / np.float32(white))


def _gray_levels(image: Image.Image) -> tuple[Float[np.ndarray, "h w"], float]:
    """The gray levels of a mask, and the level of white."""
    if is_deep(image) and not image.has_transparency_data:
        levels, white = deep_levels(image)
        return levels.astype(np.float32), white
    shown = on_background(image, (0, 0, 0)) if image.has_transparency_data else rgb(image)
    channels = np.asarray(shown)
    chroma = channels.max(-1).astype(np.int16) - channels.min(-1)
    if chroma.max() > MAX_CHROMA:
        row, column = np.unravel_index(chroma.argmax(), chroma.shape)
        found = "#{:02x}{:02x}{:02x}".format(*channels[row, column])
        raise BadImageError(f"has colours, such as {found}; a mask is white inside, black outside, and gray between")
    return np.asarray(shown.convert("L"), np.float32), 255.0


def _image(value: Any, name: str) -> tuple[Image.Image, str]:
    """The decoded image, turned by its EXIF orientation, in its own mode, and its name."""
    if isinstance(value, str | Path):
        return open_image(Path(value), exif=True), str(value)
    if isinstance(value, bytes):
        return open_image(value, name, exif=True), name
    if isinstance(value, Image.Image):
        return decoded(value, name), name
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        value = (tensor.movedim(0, -1) if tensor.ndim == 3 else tensor).numpy()
    if not isinstance(value, np.ndarray):
        kinds = "a path, the content of a file, a Pillow image, a NumPy array or a tensor"
        raise BadImageError(f"{name} must be {kinds}, got {type(value).__name__}")
    return _of_array(value, name), name


def _of_array(array: np.ndarray, name: str) -> Image.Image:
    """An array [h, w] or [h, w, c] as a Pillow image of 8 bits, or 16 for a gray one of 16; floats of one channel in
    mode F."""
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if channels not in (1, 2, 3, 4) or 0 in array.shape:
        shapes = "arrays are [h, w] or [h, w, c], tensors [h, w] or [c, h, w], with 1 to 4 channels"
        raise BadImageError(f"{name} is an array of shape {list(array.shape)}; {shapes}")
    check_size((array.shape[1], array.shape[0]), name)
    array = array[..., 0] if array.ndim == 3 and channels == 1 else array
    largest = 1.0 if array.dtype.kind in "fb" else 65535.0 if array.dtype == np.uint16 else 255.0
    if array.dtype.kind not in "fbiu":
        raise BadImageError(f"{name} has the type {array.dtype}; it must be of numbers")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= largest):
        hint = "; of an image in [-1, 1], give (x + 1) / 2" if array.dtype.kind == "f" else ""
        found = f"values from {array.min():g} to {array.max():g}"
        raise BadImageError(f"{name} has {found}; of {array.dtype}, they must be from 0 to {largest:g}{hint}")
    if array.ndim == 2 and array.dtype.kind == "f":
        return Image.fromarray(array.astype(np.float32))
    if array.ndim == 2 and array.dtype == np.uint16:
        return Image.fromarray(array)
    if array.dtype.kind == "f":
        array = np.rint(array.astype(np.float64) * 255)
    elif array.dtype.kind == "b":
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = array >> 8
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))
