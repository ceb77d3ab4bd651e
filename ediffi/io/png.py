"""PNG files that carry the settings they were made with, and PNG as text, in a data URL."""

import base64
import binascii
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from ediffi.io import files
from ediffi.io.images import open_image
from ediffi.io.prompt_files import parse_json

MAX_FILES = 100_000
SETTINGS = "ediffi"  # key of the PNG text field that holds the settings
INPUTS = "ediffi-inputs"  # and of the one that holds the images that it was made from
BESIDE = "inputs.json"  # of a folder of images that were all made from the same ones, instead of that field in each
DATA_URL = "data:image/png;base64,"


def save(image: Image, path: Path, settings: Mapping[str, Any], inputs: Mapping[str, bytes] | None = None) -> None:
    """Write an image with its settings, through `files.replacing`; `inputs` are PNG files that it was made from."""
    info = PngInfo()
    info.add_itxt(SETTINGS, json.dumps(settings, ensure_ascii=False))
    if inputs:
        info.add_itxt(INPUTS, _inputs_text(inputs))
    with files.replacing(path) as beside:
        image.save(beside, "png", pnginfo=info)


def attach_settings(image: Image, settings: Mapping[str, Any]) -> Image:
    """Put the settings into `image.info`, for code that writes these texts into a file; returns the image."""
    image.info[SETTINGS] = json.dumps(settings, ensure_ascii=False)
    return image


def settings_of(path: Path) -> dict[str, Any]:
    """The settings an image was made with; ValueError if the file is not an image, or holds no settings."""
    content = _field(path, SETTINGS)
    if content is None:
        raise ValueError(f"{path} holds no settings: ediffi did not make it, or another program saved it again")
    return content


def inputs_of(path: Path) -> dict[str, bytes]:
    """The PNG files that an image was made from, by name: as `save` was given them, or from `BESIDE` in its folder.

    ValueError: as `settings_of`.
    """
    urls, place, beside = _field(path, INPUTS), path, path.with_name(BESIDE)
    if urls is None and beside.is_file():
        urls, place = _object(beside.read_text(encoding="utf-8"), str(beside)), beside
    return {name: from_data_url(url, f"{name} in {place}") for name, url in (urls or {}).items()}


def save_inputs(folder: Path, inputs: Mapping[str, bytes]) -> None:
    """Write the PNG files that all images of a folder were made from into its `BESIDE`."""
    files.replace(folder / BESIDE, _inputs_text(inputs).encode())


def data_url(image: Image) -> str:
    """An image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return DATA_URL + _base64(buffer.getvalue())


def from_data_url(url: Any, name: str) -> bytes:
    """The PNG file in a data URL; ValueError names it if it is broken."""
    if not isinstance(url, str) or not url.startswith(DATA_URL):
        raise ValueError(f"{name} is broken: it must begin with {DATA_URL!r}")
    try:
        return base64.b64decode(url.removeprefix(DATA_URL), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is broken: {error}") from None


def _inputs_text(inputs: Mapping[str, bytes]) -> str:
    return json.dumps({name: DATA_URL + _base64(content) for name, content in inputs.items()})


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _field(path: Path, key: str) -> dict[str, Any] | None:
    """A text field of a file that holds a JSON object; None if it has none."""
    text = getattr(open_image(path, exif=True), "text", {}).get(key)
    return None if text is None else _object(text, f"the settings of {path}")


def _object(text: str, name: str) -> dict[str, Any]:
    content = parse_json(text, name)
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be a JSON object")
    return content


def check_writable(path: Path) -> None:
    """Find out before long work whether its output can be written; OSError names the folder or file."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of the output does not exist: {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"the output is a folder: {path}")
    beside = path.with_name(path.name + ".tmp")
    beside.touch()
    beside.unlink()


def numbered(output: Path, count: int) -> list[Path]:
    """`out.png` for one image, `out-0.png`, `out-1.png`, ... for several; checked to be writable. ValueError: `count`
    is not in 1 to `MAX_FILES`, or `output` does not end in .png."""
    if not 1 <= count <= MAX_FILES:
        raise ValueError(f"the number of images must be from 1 to {MAX_FILES}, got {count}")
    if output.suffix.lower() != ".png":
        raise ValueError(f"the output must end in .png, got {str(output)!r}")
    if output.is_dir():
        raise IsADirectoryError(f"the output is a folder: {output}")
    paths = [output] if count == 1 else [output.with_stem(f"{output.stem}-{index}") for index in range(count)]
    check_writable(paths[0])
    return paths
