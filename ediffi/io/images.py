"""Image files, opened with care; tensors in [-1, 1] made of them, and images made of tensors.

What a caller gives comes in by `ediffi.io.image_input`.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a file of a few kilobytes can hold gigabytes of pixels."""
Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
"""Transparent images are shown on white, as browsers and img2dataset show them."""


_LIMIT = f"at most {MAX_PIXELS / 1e6:g} million pixels are allowed"


class BadImageError(ValueError):
    """A file that is not an image that can be used; the message names it."""


def open_image(
    source: Path | bytes, name: str | None = None, *, exif: bool = False, decode: bool = True
) -> Image.Image:
    """The image in a file or its content, in its own mode; the first frame if it has several.

    `name` is what messages call it. `exif` turns it by its EXIF orientation, as viewers show it; evaluation leaves
    pixels as they are stored. Without `decode`, only the header is read, not the pixels. FileNotFoundError: no such
    file. BadImageError: empty, no image, broken, or more than `MAX_PIXELS`.
    """
    name = name or (str(source) if isinstance(source, Path) else "the image")
    if isinstance(source, Path) and not source.is_file():
        address = re.match(r"https?:/", str(source))  # of which a path keeps one slash
        raise FileNotFoundError(f"no image {name}" + ("; it is an address: download it first" if address else ""))
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise BadImageError(f"{name} is empty")
    with _reading(name):
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        with image:
            check_size(image.size, name)
            image.info["frames"] = getattr(image, "n_frames", 1)
            if decode:
                image.load()
            if exif:
                ImageOps.exif_transpose(image, in_place=True)
            return image


def decoded(image: Image.Image, name: str) -> Image.Image:
    """A copy of an image that somebody else opened, decoded, and turned by its EXIF orientation; errors as
    `open_image`."""
    check_size(image.size, name)
    with _reading(name):
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        image = image.copy()
        image.info["frames"] = frames
        ImageOps.exif_transpose(image, in_place=True)
    return image


def check_size(size: tuple[int, int], name: str) -> None:
    """BadImageError unless an image of this width and height has some pixels, and at most `MAX_PIXELS`."""
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise BadImageError(f"{name} is {width}x{height}; {_LIMIT}")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Errors of the decoders in the block as `BadImageError`."""
    try:
        yield
    except Image.DecompressionBombError:
        raise BadImageError(f"{name} has too many pixels; {_LIMIT}") from None
    except UnidentifiedImageError:
        raise BadImageError(f"{name} is not an image") from None
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # of broken data, Pillow's decoders raise nearly any class: struct.error, KeyError, ...
        raise BadImageError(f"{name} is a broken image: {error}") from None


def oddity(image: Image.Image) -> str | None:
    """Why converting a decoded image to 8-bit RGB would lose something ("transparent", "animated", ...); or None."""
    if image.info.get("frames", 1) > 1:
        return "animated"
    if is_deep(image):
        return "16-bit or float"
    if is_transparent(image):
        return "transparent"
    return None if image.mode in {"RGB", "L", "1", "RGBA", "LA", "PA", "P"} else image.mode


def is_transparent(image: Image.Image) -> bool:
    """Whether a pixel of a decoded image is not opaque. An alpha channel, or a transparent colour that no pixel has,
    does not make an image transparent."""
    return image.has_transparency_data and bool((np.asarray(rgba(image).getchannel("A")) < 255).any())


def color(name: str) -> Color:
    """The colour of a name ("white") or code ("#ff8800"); ValueError for anything else, and for one with alpha."""
    problem = ValueError(f"{name!r} is no colour: give a name, such as white, or a code, such as #ff8800")
    try:
        found = ImageColor.getrgb(name)
    except ValueError:
        raise problem from None
    if len(found) != 3:
        raise problem
    return found


def rgb(image: Image.Image, background: Color = WHITE) -> Image.Image:
    """A decoded image as 8-bit RGB: 16-bit values lose their low byte, and a transparent image is laid on `background`:
    `alpha·color + (1 - alpha)·background`. So colours hidden under alpha 0 change nothing. BadImageError: its values
    are not finite, or larger than 16 bits."""
    if image.has_transparency_data:
        return on_background(image, background)
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB") or image
    return _eight_bits(image).convert("RGB")


def on_background(image: Image.Image, background: Color) -> Image.Image:
    """A decoded image with transparency, laid on a colour, as RGB."""
    matte = Image.new("RGBA", image.size, background)
    matte.alpha_composite(rgba(image))
    return matte.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """An RGB image resized so that its shortest side is `size` (bicubic, antialiased), and its centre square. Our
    choice, as CLIP prepares images, and to the bit what torchvision's Resize and CenterCrop do (the longest side is
    rounded down); the paper does not say how the reference images were made square."""
    short = min(image.size)
    if short != size:
        shape = (int(image.width * size / short), int(image.height * size / short))
        image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    """Shortest side to `size` by area averaging, then the centre square (eDiff-I, section 5: resize, centre crop).
    ValueError: the image is smaller than `size`."""
    _check_size(image, size)
    short = min(image.size)
    if short > size:
        image = image.resize((image.width * size // short, image.height * size // short), Image.Resampling.BOX)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return _scaled(image.crop((left, top, left + size, top + size)))


def crop_to_tensor(image: Image.Image, size: int, top: int, left: int, crop: int) -> Float[Tensor, "3 crop crop"]:
    """`to_tensor(image, size)[:, top : top + crop, left : left + crop]`, computed from the crop alone: far less work.

    Equal where nothing is resized, or by a whole factor. Otherwise rounding may assign a source pixel at the edge of an
    averaged one differently. ValueError: the image is smaller than `size`, or the crop does not lie in the square of
    it.
    """
    _check_size(image, size)
    if crop < 1 or not (0 <= top <= size - crop and 0 <= left <= size - crop):
        raise ValueError(f"a crop of {crop} pixels at {top}, {left} does not lie in {size}x{size}")
    short = min(image.size)
    width, height = image.width * size // short, image.height * size // short
    left, top = left + (width - size) // 2, top + (height - size) // 2
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + crop) * across, (top + crop) * down)
    return _scaled(image.resize((crop, crop), Image.Resampling.BOX, box=box))


def pad_to_tensor(image: Image.Image, size: int, background: Color) -> Float[Tensor, "3 size size"]:
    """The whole image in the middle of a square of `background`: its longest side is averaged down to `size`, and stays
    as it is where it is smaller."""
    longest = max(image.size)
    if longest > size:
        width, height = (max(1, round(side * size / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    square = Image.new("RGB", (size, size), background)
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return _scaled(square)


def square_to_tensor(image: Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    """`square`, as a tensor in [-1, 1]."""
    return _scaled(square(image, size))


def difference(one: Image.Image, other: Image.Image) -> str:
    """How the pixels of two RGB images differ, in words; empty if they are the same."""
    if one.size != other.size:
        return f"the images are of different sizes, {one.width}x{one.height} and {other.width}x{other.height}"
    apart = np.abs(np.asarray(one.convert("RGB"), np.int16) - np.asarray(other.convert("RGB"), np.int16)).max(-1)
    if not apart.any():
        return ""
    return f"{(apart > 0).sum():,} of {apart.size:,} pixels differ, by at most {apart.max()} of 255"


def to_images(tensor: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """RGB images of tensors in [-1, 1]; values outside are clipped. ValueError: a value is not finite."""
    values = tensor.float()
    if not values.isfinite().all():
        raise ValueError("an image of numbers that are not finite (NaN or infinite) cannot be shown")
    pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in pixels]


def deep_levels(image: Image.Image) -> tuple[Shaped[np.ndarray, "h w"], float]:
    """The levels of a gray image of 16-bit integers or of floats, and the level of white: floats are from 0 to 1, or
    to 255, as Pillow's own mode F has them. BadImageError: other levels."""
    levels = np.asarray(image)
    white = 65535.0 if image.mode.startswith("I") else 1.0 if levels.max() <= 1 else 255.0
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > white:
        raise BadImageError(f"has values from {levels.min():g} to {levels.max():g}; they must be from 0 to {white:g}")
    return levels, white


def is_deep(image: Image.Image) -> bool:
    """Whether it is a gray image of more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def _eight_bits(image: Image.Image) -> Image.Image:
    if not is_deep(image):
        return image
    levels, white = deep_levels(image)
    scaled = levels // 256 if image.mode.startswith("I") else np.rint(levels * (255 / white))
    return Image.fromarray(scaled.astype(np.uint8))


def rgba(image: Image.Image) -> Image.Image:
    """An image with transparency as RGBA; a PNG may name one colour, of 8 or 16 bits, that is transparent."""
    if not image.mode.startswith("I"):
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    opaque = np.asarray(image) != image.info["transparency"]
    gray = _eight_bits(image)
    gray.info.pop("transparency", None)
    shown = gray.convert("RGBA")
    shown.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return shown


def _check_size(image: Image.Image, size: int) -> None:
    if min(image.size) < size:
        raise ValueError(f"an image of {image.width}x{image.height} is smaller than image_size, {size}")


def _scaled(image: Image.Image) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
