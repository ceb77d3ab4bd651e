"""The shelf: a folder of finished pictures with their settings, and of the style pictures they refer to."""

import hashlib
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.io import png

STYLES = "styles"
SHOWN = 120
"""How many of the newest pictures the page lists; the others stay in the folder."""
STYLE_SIDE = 1024
"""Style pictures are kept no larger: CLIP looks at far fewer pixels."""


@dataclass(frozen=True)
class Entry:
    """A picture on the shelf.

    Attributes:
        name: of its file.
        settings: what it was made with.
    """

    name: str
    settings: Mapping[str, Any]


class Shelf:
    """Pictures in a folder, which is made if it is missing.

    Args:
        folder: PNG files of this page, and of any other command of ediffi.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        (self.folder / STYLES).mkdir(parents=True, exist_ok=True)
        self._read: dict[tuple[str, int], Entry | None] = {}

    def add(self, images: Sequence[Image.Image], settings: Mapping[str, Any]) -> list[str]:
        """Save the pictures of a call, each with the settings of all and its own index; returns their names.

        Raises:
            OSError: they cannot be written.
        """
        stem = self._free()
        names = [f"{stem}-{index}.png" for index in range(len(images))]
        for index in reversed(range(len(images))):  # so that the first is the newest
            png.save(images[index], self.folder / names[index], {**settings, "index": index})
        return names

    def entries(self, most: int = SHOWN) -> list[Entry]:
        """The newest pictures of ediffi in the folder, the newest first; others are passed over."""
        found: list[Entry] = []
        for path in sorted(self.folder.glob("*.png"), key=_age):
            if len(found) == most:
                break
            if (entry := self._entry(path)) is not None:
                found.append(entry)
        return found

    def entry(self, name: str) -> Entry:
        """One picture.

        Raises:
            FileNotFoundError: it is not there, or no longer.
        """
        path = self.folder / Path(name).name
        if path.name != name or (entry := self._entry(path)) is None:
            raise FileNotFoundError(f"{name!r} is not among the pictures in {self.folder}")
        return entry

    def path(self, name: str) -> Path:
        """Where a picture stands; raises as `entry`."""
        return self.folder / self.entry(name).name

    def keep_style(self, image: Image.Image) -> str:
        """Keep a style picture, so that a picture can be made again; returns the name it is kept by.

        Raises:
            OSError: it cannot be written.
        """
        small = image.convert("RGB")
        small.thumbnail((STYLE_SIDE, STYLE_SIDE))
        name = hashlib.sha256(small.tobytes()).hexdigest()[:16]
        path = self.folder / STYLES / f"{name}.png"
        if not path.exists():
            beside = path.with_name(path.name + ".tmp")
            small.save(beside, "png")
            beside.replace(path)
        return name

    def style(self, name: str) -> Path:
        """Where a style picture stands.

        Raises:
            ValueError: that is no name of one.
        """
        if not re.fullmatch(r"[0-9a-f]{16}", name):
            raise ValueError(f"a style picture is named by 16 hexadecimal digits, got {name!r}")
        return self.folder / STYLES / f"{name}.png"

    def _free(self) -> str:
        """A stem that no picture has: the time, and a number if there are several in a second."""
        now = time.strftime("%Y%m%d-%H%M%S")
        stems = (f"{now}-{number}" if number else now for number in itertools.count())
        return next(stem for stem in stems if not (self.folder / f"{stem}-0.png").exists())

    def _entry(self, path: Path) -> Entry | None:
        """What a file holds, read once while it stays the same; None if it is no picture of ediffi."""
        try:
            key = (path.name, path.stat().st_mtime_ns)
            if key not in self._read:
                settings = png.settings_of(path)
                self._read[key] = Entry(path.name, settings) if isinstance(settings, dict) else None
            return self._read[key]
        except FileNotFoundError:  # removed just now
            return None
        except (ValueError, OSError):
            self._read[key] = None
            return None


def _age(path: Path) -> tuple[int, str]:
    """What sorts files from the newest to the oldest; those that are gone come last."""
    try:
        return -path.stat().st_mtime_ns, path.name
    except FileNotFoundError:
        return 0, path.name
