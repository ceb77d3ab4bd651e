"""Numbered images on disk: in the files of a folder, or in WebDataset shards.

Images that `generate` writes are files `00000.png`, `00001.png`, ..., or in shards `00000.tar`, `00001.tar`, ... of
equally many images each. In a shard an image is three members: `00007.png`, its prompt `00007.txt`, and `00007.json`
with its stamp. Each shard has its hash beside it, as `sha256sum` writes it (`00000.tar.sha256`). A finished folder of
shards has an `index.json` with counts and hashes.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from ediffi.evaluation.images import stamp
from ediffi.io import files, plain_json
from ediffi.io.images import BadImageError, open_image

FORMAT = "ediffi-pictures-1"
INDEX = "index.json"


@runtime_checkable
class NumberedImages(Protocol):
    """Images 0 to `len - 1`, one for each caption, in the order of the captions."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image:
        """The decoded image, in its own mode; BadImageError if it is broken, FileNotFoundError if it is missing."""
        ...

    def name(self, index: int) -> str:
        """The image's name in messages."""
        ...

    def fingerprint(self) -> str:
        """SHA-256, as a hexadecimal number, that changes when the images change."""
        ...


class ImageFolder:
    """The files `names` of a folder, in order; the folder need not exist before images are written."""

    layout: Mapping[str, Any] = {"kind": "folder"}

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder, self._names = folder, list(names)
        self._known = frozenset(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Image.Image:
        return open_image(self.path(index))

    def name(self, index: int) -> str:
        """The file's name."""
        return self._names[_check_number(index, len(self))]

    def path(self, index: int) -> Path:
        """The file."""
        return self.folder / self.name(index)

    def fingerprint(self) -> str:
        """SHA-256 over names and contents of the files."""
        return files.fingerprint(self.folder / name for name in self._names)

    # `generate` writes with these methods, which `ImageShards` has too.

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

        ValueError: a whole image was made with other settings (`settings` is their SHA-256), or has another number.
        """
        missing, broken = [], 0
        for index in numbers:
            try:
                stamp.check(self.path(index), str(self.path(index)), stamp.Stamp(index, settings))
            except (FileNotFoundError, BadImageError) as error:
                missing.append(index)
                broken += isinstance(error, BadImageError)
        return missing, broken

    def write(self, numbers: Sequence[int], settings: str, images: Iterable[tuple[int, Image.Image, str]]) -> None:
        """Write images of a unit, each with its number and its prompt, as they arrive."""
        for index, image, _ in images:
            files.replace(self.path(index), stamp.encode(image, stamp.Stamp(index, settings)))

    def finish(self, settings: str) -> None:
        """Called once when all images are written: there is nothing to add."""


class ImageShards:
    """Images 0 to `count - 1` in shards, of which the last may be smaller; with `first`, only the first so many."""

    def __init__(self, folder: Path, count: int, shard_size: int, first: int | None = None) -> None:
        for name, value in (("count", count), ("shard_size", shard_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.folder, self._count, self.shard_size = folder, count, shard_size
        self._length = count if first is None else first
        self.layout: Mapping[str, Any] = {"kind": "shards", "shard_size": shard_size}
        shards = [range(start, min(start + shard_size, count)) for start in range(0, count, shard_size)]
        self._shards = {f"{number:05d}.tar": images for number, images in enumerate(shards)}
        self._members: dict[Path, dict[str, tuple[int, int]]] = {}

    @classmethod
    def read(cls, folder: Path, first: int | None = None) -> "ImageShards":
        """The shards that a folder's index lists. ValueError: it is broken, or a shard is missing or not whole."""
        path = folder / INDEX
        try:
            index = plain_json.read(path)
            if index["format"] != FORMAT:
                raise ValueError(f"it has the format {index['format']!r}, and this version reads {FORMAT!r}")
            shards = cls(folder, int(index["count"]), int(index["shard_size"]), first)
            sizes = {row["file"]: int(row["bytes"]) for row in index["shards"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no index of images: {error}") from None
        if first is not None and first > shards._count:
            raise ValueError(f"{folder} has {shards._count} images, and {first} are needed")
        if list(sizes) != list(shards._shards):
            raise ValueError(f"{path} does not list the shards of {shards._count} images")
        for name, size in sizes.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise ValueError(f"{folder / name} is missing or does not have the {size} bytes that {INDEX} says")
        return shards

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Image.Image:
        return open_image(self._bytes(index), self.name(index))

    def name(self, index: int) -> str:
        """Its shard, and its member there: `00000.tar/00007.png`."""
        return f"{_check_number(index, len(self)) // self.shard_size:05d}.tar/{index:05d}.png"

    def fingerprint(self) -> str:
        """SHA-256 of the index, whose hashes are those of the shards; of a part of the images, with their number.

        ValueError: a shard is not the one that the index lists.
        """
        digest = files.sha256(self.folder / INDEX)
        for row in plain_json.read(self.folder / INDEX)["shards"]:
            if files.sha256(self.folder / row["file"]) != row["sha256"]:
                raise ValueError(f"{self.folder / row['file']} was changed: it has another sha256 than {INDEX} says")
        part = hashlib.sha256(f"{digest}:{len(self)}".encode()).hexdigest()
        return digest if len(self) == self._count else part

    def unit(self, batch_size: int) -> int:
        """See `ImageFolder.unit`; here a shard, of whole batches."""
        if self.shard_size % batch_size:
            raise ValueError(f"shard_size must be a multiple of batch_size, got {self.shard_size} and {batch_size}")
        return self.shard_size

    def count(self) -> int:
        """Images in the shards that are in the folder."""
        return sum(len(self._shards.get(name, ())) for name in os.listdir(self.folder))

    def unexpected(self) -> list[str]:
        """Tar files in the folder that are none of these shards."""
        return sorted(n for n in os.listdir(self.folder) if n.endswith(".tar") and n not in self._shards)

    def verify(self, numbers: range, settings: str) -> tuple[list[int], int]:
        """See `ImageFolder.verify`; a shard is whole if it has its hash and its first and last image."""
        path = self._shard(numbers.start)
        if not path.is_file():
            return list(numbers), 0
        if _recorded_hash(path) != files.sha256(path):
            return list(numbers), len(numbers)
        self._members.pop(path, None)
        try:
            for index in (numbers[0], numbers[-1]):
                stamp.check(self._bytes(index), str(self.folder / self.name(index)), stamp.Stamp(index, settings))
        except BadImageError:
            return list(numbers), len(numbers)
        return [], 0

    def write(self, numbers: range, settings: str, images: Iterable[tuple[int, Image.Image, str]]) -> None:
        """Write all images of a shard, in order, each with its number and its prompt."""
        from webdataset import TarWriter  # imports torch

        path = self._shard(numbers.start)
        with files.replacing(path) as beside:
            with TarWriter(str(beside), encoder=False, mtime=0.0) as tar:
                for index, image, prompt in images:
                    mark = stamp.Stamp(index, settings)
                    content = {"json": str(mark).encode(), "png": stamp.encode(image, mark), "txt": prompt.encode()}
                    tar.write({"__key__": f"{index:05d}", **content})
            # Before the shard: a process killed between the two leaves a shard that does not match, and is made again.
            files.replace(_hash_file(path), f"{files.sha256(beside)}  {path.name}\n")
        self._members.pop(path, None)

    def finish(self, settings: str) -> None:
        """Called once when all shards are written: write the index."""
        rows = []
        for name, images in self._shards.items():
            size, digest = (self.folder / name).stat().st_size, _recorded_hash(self.folder / name)
            rows.append({"file": name, "count": len(images), "bytes": size, "sha256": digest})
        index = {"format": FORMAT, "count": self._count, "shard_size": self.shard_size, "settings": settings}
        files.replace(self.folder / INDEX, json.dumps({**index, "shards": rows}, indent=1) + "\n")

    def _shard(self, index: int) -> Path:
        return self.folder / self.name(index).partition("/")[0]

    def _bytes(self, index: int) -> bytes:
        """The PNG file of an image; empty if its shard lacks it."""
        path = self._shard(index)
        if path not in self._members:
            try:
                with tarfile.open(path, "r:") as tar:
                    self._members[path] = {member.name: (member.offset_data, member.size) for member in tar}
            except tarfile.TarError as error:
                raise BadImageError(f"{path} is a broken shard: {error}") from None
        start, size = self._members[path].get(f"{index:05d}.png", (0, 0))
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)


def _check_number(index: int, count: int) -> int:
    """`index`, if it is the number of one of `count` images: negative numbers are refused too."""
    if not 0 <= index < count:
        raise IndexError(f"no image {index} among {count}")
    return index


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _recorded_hash(path: Path) -> str | None:
    try:
        return _hash_file(path).read_text(encoding="utf-8").partition(" ")[0]
    except (FileNotFoundError, UnicodeDecodeError):
        return None
