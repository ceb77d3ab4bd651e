"""PNG files that say which picture of which run they are, and that can be told from broken ones."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ediffi.io.images import BadImageError

FIELD = "picture"
"""Key of the PNG text field that holds the stamp."""

END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of a PNG file, its checksum with it."""


@dataclass(frozen=True)
class Stamp:
    """Which picture it is.

    Attributes:
        index: its number in the run.
        settings: SHA-256 of what the run is for.
    """

    index: int
    settings: str

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def encode(image: Image.Image, stamp: Stamp) -> bytes:
    """A PNG file with the stamp; texts in `image.info` are kept as text fields."""
    info = PngInfo()
    for key, text in image.info.items():
        if isinstance(key, str) and isinstance(text, str) and key != FIELD:
            info.add_itxt(key, text)
    info.add_itxt(FIELD, str(stamp))
    file = io.BytesIO()
    image.save(file, "png", pnginfo=info)
    return file.getvalue()


def stamp_of(source: Path | bytes, name: str | None = None) -> Stamp | None:
    """The stamp of a PNG file whose every checksum is right; None if it has none.

    The pixels are not decoded: each chunk of a PNG file has a CRC-32, and the last one says that it is the last.

    Args:
        source: a file, or what stands in one.
        name: what a message calls it; the path by default.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: it is truncated, damaged, or no PNG file.
    """
    name = name or str(source if isinstance(source, Path) else "the picture")
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            text = image.info.get(FIELD)
            image.verify()
        if not content.endswith(END):
            raise OSError("truncated PNG file")  # PIL looks at no byte beyond the name of the last chunk
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises at truncated or damaged files
        raise BadImageError(f"{name} is a broken picture: {error}") from None
    try:
        content = json.loads(text or "")
        return Stamp(int(content["index"]), str(content["settings"]))
    except (ValueError, TypeError, KeyError):
        return None


def check(source: Path | bytes, name: str, stamp: Stamp) -> None:
    """Make sure that a PNG file is whole, and the picture it should be; `name` is what a message calls it.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: it is truncated, damaged, or no PNG file.
        ValueError: it is another picture: made with other settings, for another place, or by another program.
    """
    found = stamp_of(source, name)
    if found == stamp:
        return
    if found is None:
        reason = "it does not say so"
    elif found.settings != stamp.settings:
        reason = f"it was made with other settings ({found.settings[:12]}..., this run is {stamp.settings[:12]}...)"
    else:
        reason = f"it is picture {found.index}"
    raise ValueError(f"{name} is not picture {stamp.index} of this run: {reason}; remove it or choose another folder")
