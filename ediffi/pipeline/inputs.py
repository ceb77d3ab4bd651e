"""The images, masks and noise that a call was made from, as PNG files by their hash, and back to the bit."""

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ediffi.io.images import open_image

FOLDER = "call"
MAX_BYTES = 8 << 20
"""More than this is not put into an image."""


def digest(value: Image.Image | Tensor) -> str:
    """SHA-256 of the pixels of an image, or of the numbers of a tensor."""
    content = value.tobytes() if isinstance(value, Image.Image) else _numbers(value).tobytes()
    return hashlib.sha256(content).hexdigest()


def stored(*values: Any) -> dict[str, bytes]:
    """PNG files of the images and tensors in options, "call/SHA256.png"; none, if they have more than `MAX_BYTES`."""
    files = {f"{FOLDER}/{digest(one)}.png": _png(one) for value in values for one in _inside(value)}
    return files if sum(map(len, files.values())) <= MAX_BYTES else {}


def found(files: Mapping[str, bytes]) -> dict[str, Image.Image | Tensor]:
    """The images and tensors in PNG files, by their hash. ValueError: one is broken."""
    read = [_read(content, name) for name, content in files.items()]
    return {digest(value): value for value in read}


def _inside(value: Any) -> Iterator[Image.Image | Tensor]:
    if isinstance(value, Image.Image | Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _inside(getattr(value, field.name))
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _inside(one)


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def _png(value: Image.Image | Tensor) -> bytes:
    """An image as it is; a mask of 256 levels in gray; other numbers byte by byte, four to a pixel."""
    if isinstance(value, Tensor):
        numbers = _numbers(value.float())
        levels = np.rint(numbers.clip(0, 1) * 255).astype(np.uint8)
        gray = value.ndim == 2 and np.array_equal(levels.astype(np.float32) / np.float32(255), numbers)
        flat = np.ascontiguousarray(numbers.reshape(-1, numbers.shape[-1]))
        value = Image.fromarray(levels if gray else flat.view(np.uint8).reshape(*flat.shape, 4))
    file = io.BytesIO()
    value.save(file, "png")
    return file.getvalue()


def _read(content: bytes, name: str) -> Image.Image | Tensor:
    image = open_image(content, name)
    if image.mode == "L":
        return torch.from_numpy(np.asarray(image, np.float32) / np.float32(255))
    if image.mode == "RGBA":
        return torch.from_numpy(np.ascontiguousarray(np.asarray(image)).view(np.float32)[..., 0].copy())
    return image
