"""Picture files from anywhere, opened with care: what is broken is named, what is unusual is said."""

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64_000_000
"""More are refused before they are decoded: a file of a few kilobytes can unfold to gigabytes."""

PLAIN = {"RGB", "L", "1"}
"""Modes that become RGB without a choice of ours."""


class BadPicture(ValueError):
    """A file that holds no picture that could be judged; the message names it."""


def open_picture(source: Path | bytes, name: str | None = None) -> Image.Image:
    """The picture in a file, decoded, in its own mode; its first frame, if it has several.

    Args:
        source: a file, or what stands in one.
        name: what a message calls it; the path by default.

    Raises:
        FileNotFoundError: there is no such file.
        BadPicture: it is empty, not a picture, broken, or has more than `MAX_PIXELS` pixels.
    """
    name = name or (str(source) if isinstance(source, Path) else "the picture")
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"no picture {name}")
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise BadPicture(f"{name} is empty")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadPicture(
                    f"{name} is {image.width}x{image.height}; at most {MAX_PIXELS / 1e6:g} million pixels are allowed"
                )
            image.info["frames"] = getattr(image, "n_frames", 1)
            image.load()
            return image
    except Image.DecompressionBombError:
        raise BadPicture(f"{name} has far more than {MAX_PIXELS / 1e6:g} million pixels, which are allowed") from None
    except UnidentifiedImageError:
        raise BadPicture(f"{name} is not a picture") from None
    except BadPicture:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what PIL's decoders raise at truncated or broken data
        raise BadPicture(f"{name} is a broken picture: {error}") from None


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
