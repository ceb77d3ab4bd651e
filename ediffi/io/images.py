"""Image files, opened with care; tensors in [-1, 1] made of them, and images made of tensors."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a file of a few kilobytes can hold gigabytes of pixels."""
Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
"""Transparent images are shown on white, as browsers and img2dataset show them."""


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
        raise FileNotFoundError(f"no image {name}")
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise BadImageError(f"{name} is empty")
    limit = f"at most {MAX_PIXELS / 1e6:g} million pixels are allowed"
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError(f"{name} is {image.width}x{image.height}; {limit}")
            image.info["frames"] = getattr(image, "n_frames", 1)
            if decode:
                image.load()
            if exif:
                ImageOps.exif_transpose(image, in_place=True)
            return image
    except Image.DecompressionBombError:
        raise BadImageError(f"{name} has too many pixels; {limit}") from None
    except UnidentifiedImageError:
        raise BadImageError(f"{name} is not an image") from None
    except BadImageError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # PIL's decoders raise these at truncated or broken data
        raise BadImageError(f"{name} is a broken image: {error}") from None


def oddity(image: Image.Image) -> str | None:
    """Why converting a decoded image to 8-bit RGB would lose something ("transparent", "animated", ...); or None."""
    if image.info.get("frames", 1) > 1:
        return "animated"
    if image.mode.startswith(("I", "F")):
        return "16-bit or float"
    if is_transparent(image):
        return "transparent"
    return None if image.mode in {"RGB", "L", "1", "RGBA", "LA", "PA", "P"} else image.mode


def is_transparent(image: Image.Image) -> bool:
    """Whether a pixel of a decoded image is not opaque. An alpha channel, or a transparent colour that no pixel has,
    does not make an image transparent."""
    return image.has_transparency_data and bool((np.asarray(_rgba(image).getchannel("A")) < 255).any())


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
    `alpha·color + (1 - alpha)·background`. So colours hidden under alpha 0 change nothing."""
    if image.has_transparency_data:
        matte = Image.new("RGBA", image.size, background)
        matte.alpha_composite(_rgba(image))
        return matte.convert("RGB")
    return _eight_bits(image).convert("RGB")


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


def to_images(tensor: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """RGB images of tensors in [-1, 1]; values outside are clipped."""
    pixels = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in pixels]


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.point(lambda value: value / 256).convert("L")
    return image


def _rgba(image: Image.Image) -> Image.Image:
    """An image with transparency as RGBA; a PNG may name one colour, of 8 or 16 bits, that is transparent."""
    if not image.mode.startswith("I"):
        return image.convert("RGBA")
    opaque = np.asarray(image) != image.info["transparency"]
    gray = _eight_bits(image)
    gray.info.pop("transparency", None)
    rgba = gray.convert("RGBA")
    rgba.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return rgba


def _check_size(image: Image.Image, size: int) -> None:
    if min(image.size) < size:
        raise ValueError(f"an image of {image.width}x{image.height} is smaller than image_size, {size}")


def _scaled(image: Image.Image) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
