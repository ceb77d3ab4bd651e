"""PNG files that carry their number and the hash of their run's settings, and whose damage is detected."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ediffi.io import plain_json
from ediffi.io.images import BadImageError

FIELD = "picture"
"""Key of the PNG text field that holds the stamp."""

END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of a PNG file, with its checksum."""


@dataclass(frozen=True)
class Stamp:
    """Which image of which run a file is: its number, and the SHA-256 of the run's settings."""

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
    """The stamp of an intact PNG file; None if the file has no stamp. BadImageError: it is truncated or damaged.

    Pixels are not decoded, which makes this fast: each chunk of a PNG file has a CRC-32.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            text = image.info.get(FIELD)
            image.verify()
        if not content.endswith(END):
            raise OSError("truncated PNG file")  # PIL reads no further than the name of the last chunk
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises these at truncated or damaged files
        raise BadImageError(f"{name or str(source)[:80]} is a broken image: {error}") from None
    try:
        fields = plain_json.loads(text or "")
        return Stamp(int(fields["index"]), str(fields["settings"]))
    except (ValueError, TypeError, KeyError):
        return None


def check(source: Path | bytes, name: str, stamp: Stamp) -> None:
    """Check that a PNG file is intact (BadImageError) and has this stamp (ValueError); `name` is for messages."""
    found = stamp_of(source, name)
    if found == stamp:
        return
    if found is None:
        reason = "it has no stamp"
    elif found.settings != stamp.settings:
        reason = f"it was made with other settings ({found.settings[:12]}..., this run has {stamp.settings[:12]}...)"
    else:
        reason = f"it is image {found.index}"
    raise ValueError(f"{name} is not image {stamp.index} of this run: {reason}; remove it or choose another folder")
