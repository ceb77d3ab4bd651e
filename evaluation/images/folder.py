"""Images in the files of a folder: found there, or written there as `00000.png`, `00001.png`, ..."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.evaluation.images import stamp
from ediffi.evaluation.images.numbered import check_number
from ediffi.io import files
from ediffi.io.images import BadImageError, open_image


class ImageFolder:
    """The files `names` of a folder, in order, as `NumberedImages`; the folder need not exist before images are
    written.
    """

    layout: Mapping[str, Any] = {"kind": "folder"}

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder, self._names = folder, list(names)
        self._known = frozenset(self._names)

    @classmethod
    def numbered(cls, folder: Path, count: int) -> "ImageFolder":
        """A folder for `count` images, `00000.png` and following."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        return cls(folder, (f"{index:05d}.png" for index in range(count)))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Image.Image:
        return open_image(self.path(index))

    def name(self, index: int) -> str:
        """The file's name."""
        return self._names[check_number(index, len(self))]

    def path(self, index: int) -> Path:
        """The file."""
        return self.folder / self.name(index)

    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of the files."""
        return files.fingerprint(self.folder / name for name in self._names)

    # Written to by `generate`; the same methods as `ImageShards`

    def unit(self, batch_size: int) -> int:
        """Images that one process makes and verifies together: a batch."""
        return batch_size

    def count(self) -> int:
        """Images in the folder, by their names alone."""
        return sum(name in self._known for name in os.listdir(self.folder))

    def unexpected(self) -> list[str]:
        """PNG files in the folder that are none of these images."""
        return sorted(n for n in os.listdir(self.folder) if n.lower().endswith(".png") and n not in self._known)

    def verify(self, numbers: Sequence[int], settings: str) -> tuple[list[int], int]:
        """The images of a unit that are missing or broken, and how many are broken.

        `settings` is the SHA-256 of the run's settings. ValueError: a whole image was made with other settings, or has
        another number.
        """
        missing, broken = [], 0
        for index in numbers:
            try:
                stamp.check(self.path(index), str(self.path(index)), stamp.Stamp(index, settings))
            except FileNotFoundError:
                missing.append(index)
            except BadImageError:
                missing.append(index)
                broken += 1
        return missing, broken

    def write(self, numbers: Sequence[int], settings: str, images: Iterable[tuple[int, Image.Image, str]]) -> None:
        """Write images of a unit, each with its number and its prompt, as they arrive."""
        for index, image, _ in images:
            files.replace(self.path(index), stamp.encode(image, stamp.Stamp(index, settings)))

    def finish(self, settings: str) -> None:
        """Called once when all images are written: there is nothing to add."""
