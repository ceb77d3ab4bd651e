"""A folder of numbered PNG files, `00000.png`, `00001.png`, ..., each written beside its place and then into it."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.evaluation.images import stamp
from ediffi.evaluation.images.numbered import Stock, Write, check_complete
from ediffi.evaluation.images.stamp import Stamp
from ediffi.io import files
from ediffi.io.images import BadImageError, open_image

_NUMBERED = re.compile(r"(\d{5}|[1-9]\d{5,})\.png", re.ASCII)


class PictureFolder:
    """Pictures 0 to `count - 1` in a folder: a `Store`.

    Args:
        folder: need not exist.
        count: how many pictures it is for.

    Raises:
        ValueError: `count` is below 1.
    """

    layout: Mapping[str, Any] = {"kind": "folder"}

    def __init__(self, folder: Path, count: int) -> None:
        if count < 1:
            raise ValueError(f"a folder of pictures is for at least 1, got {count}")
        self.folder, self._count = folder, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Image.Image:
        return open_image(self._path(index))

    def name(self, index: int) -> str:
        """The name of its file."""
        if not 0 <= index < len(self):
            raise IndexError(f"no picture {index} among {len(self)}")
        return f"{index:05d}.png"

    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of the files."""
        return files.fingerprint(self._path(index) for index in range(len(self)))

    def unit(self, batch_size: int) -> int:
        """A batch."""
        return batch_size

    def count(self) -> int:
        """How many of its pictures are there, by their names alone."""
        return sum(self._is_ours(name) for name in self._names())

    def strangers(self) -> list[str]:
        """Names of PNG files that are none of its pictures."""
        return sorted(name for name in self._names() if name.lower().endswith(".png") and not self._is_ours(name))

    def stock(self, numbers: range, settings: str) -> Stock:
        """Look at each of these pictures that is there; see `Store.stock`."""
        missing, broken = [], 0
        for index in numbers:
            path = self._path(index)
            try:
                stamp.check(path, str(path), Stamp(index, settings))
            except FileNotFoundError:
                missing.append(index)
            except BadImageError:
                missing.append(index)
                broken += 1
        return Stock(missing, broken)

    @contextmanager
    def writing(self, numbers: range, settings: str) -> Iterator[Write]:
        """A context in which these pictures are written, each as it comes."""

        def write(index: int, image: Image.Image, prompt: str) -> None:
            files.replace(self._path(index), stamp.encode(image, Stamp(index, settings)))

        yield write

    def finish(self, settings: str) -> None:
        """Make sure that all are there; see `Store.finish`."""
        check_complete(self)

    def _path(self, index: int) -> Path:
        return self.folder / self.name(index)

    def _names(self) -> list[str]:
        with os.scandir(self.folder) as entries:
            return [entry.name for entry in entries]

    def _is_ours(self, name: str) -> bool:
        match = _NUMBERED.fullmatch(name)
        return match is not None and int(match[1]) < len(self)
