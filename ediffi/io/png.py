"""Pictures on disk: PNG files that carry the settings they were made with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from ediffi.io.images import open_image

SETTINGS = "ediffi"
"""Key of the PNG text field that holds the settings."""


def save(image: Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a picture with its settings, beside its place and then into it.

    Raises:
        OSError: it cannot be written; what stood there stays.
    """
    info = PngInfo()
    info.add_itxt(SETTINGS, json.dumps(settings, ensure_ascii=False))
    beside = path.with_name(path.name + ".tmp")
    image.save(beside, "png", pnginfo=info)
    beside.replace(path)


def describe(image: Image, settings: Mapping[str, Any]) -> Image:
    """Let a picture carry its settings, for whoever stores it with the texts in `image.info`; the picture itself."""
    image.info[SETTINGS] = json.dumps(settings, ensure_ascii=False)
    return image


def settings_of(path: Path) -> dict[str, Any]:
    """The settings a picture was made with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture, or holds no settings.
    """
    text = getattr(open_image(path, exif=True), "text", {}).get(SETTINGS)
    if text is None:
        raise ValueError(f"{path} holds no settings: it was not made by ediffi, or was saved again since")
    content: dict[str, Any] = json.loads(text)
    return content


def check_writable(path: Path) -> None:
    """Find out before any work what could not be written after it.

    Raises:
        OSError: the folder is missing or takes no file, or `path` is a folder; the message names it.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of --output does not exist: {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"--output is a folder: {path}")
    beside = path.with_name(path.name + ".tmp")
    beside.touch()
    beside.unlink()


def numbered(output: Path, count: int) -> list[Path]:
    """`out.png` for one picture, `out-0.png`, `out-1.png`, ... for several; found out to be writable.

    Raises:
        ValueError: `count` is below 1, or `output` does not end in .png.
        OSError: as `check_writable`.
    """
    if count < 1:
        raise ValueError(f"--num-images must be at least 1, got {count}")
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png, got {str(output)!r}")
    several = [output.with_stem(f"{output.stem}-{index}") for index in range(count)]
    paths = [output] if count == 1 else several
    if output.is_dir():
        raise IsADirectoryError(f"--output is a folder: {output}")
    check_writable(paths[0])
    return paths
