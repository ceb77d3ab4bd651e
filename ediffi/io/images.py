"""Image files from anywhere, opened with care, and tensors in [-1, 1] made of them and back."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 64_000_000
"""More are refused before they are decoded: a file of a few kilobytes can unfold to gigabytes."""

PLAIN = {"RGB", "L", "1"}
"""Modes that become RGB without a choice of ours."""


class BadImageError(ValueError):
    """A file that holds no picture that could be judged; the message names it."""


def open_image(source: Path | bytes, name: str | None = None, *, exif: bool = False) -> Image.Image:
    """The image in a file, decoded, in its own mode; its first frame, if it has several.

    Args:
        source: a file, or its content.
        name: what a message calls it; the path by default.
        exif: turn it as its EXIF orientation says, as a person sees it. The judge leaves pixels as they are stored.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: it is empty, not a picture, broken, or has more than `MAX_PIXELS` pixels.
    """
    name = name or (str(source) if isinstance(source, Path) else "the picture")
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"no picture {name}")
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise BadImageError(f"{name} is empty")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError(
                    f"{name} is {image.width}x{image.height}; at most {MAX_PIXELS / 1e6:g} million pixels are allowed"
                )
            image.info["frames"] = getattr(image, "n_frames", 1)
            image.load()
            if exif:
                ImageOps.exif_transpose(image, in_place=True)
            return image
    except Image.DecompressionBombError:
        raise BadImageError(
            f"{name} has far more than {MAX_PIXELS / 1e6:g} million pixels, which are allowed"
        ) from None
    except UnidentifiedImageError:
        raise BadImageError(f"{name} is not a picture") from None
    except BadImageError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what PIL's decoders raise at truncated or broken data
        raise BadImageError(f"{name} is a broken picture: {error}") from None


def oddity(image: Image.Image) -> str | None:
    """What is unusual about a decoded picture, so that making it 8-bit RGB would be a choice; None if nothing is."""
    if image.info.get("frames", 1) > 1:
        return "animated"
    if image.mode.startswith(("I", "F")):
        return "16-bit or float"
    if image.mode in PLAIN or (image.mode == "P" and "transparency" not in image.info):
        return None
    if image.mode in {"RGBA", "LA", "PA", "P"}:
        return None if image.convert("RGBA").getchannel("A").getextrema() == (255, 255) else "transparent"
    return image.mode


def rgb(image: Image.Image) -> Image.Image:
    """A decoded picture as 8-bit RGB: 16-bit values lose their low byte, transparency is dropped, as PIL converts."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.point(lambda value: value / 256).convert("L")
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of an RGB picture, `size` a side: shortest side first (bicubic, antialiased), then cut.

    Our choice, as in CLIP's own preparation; the paper does not say how the reference pictures were made square.
    """
    short = min(image.size)
    if short != size:
        shape = (max(size, round(image.width * size / short)), max(size, round(image.height * size / short)))
        image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


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
