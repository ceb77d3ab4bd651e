"""Numbered pictures in WebDataset shards: `00000.tar`, `00001.tar`, ... of equally many pictures each.

A picture is three members of its shard: `00007.png`, its prompt `00007.txt`, and `00007.json` with its stamp. Beside a
shard stands its hash as `sha256sum` writes it (`00000.tar.sha256`), and beside them all, when they are complete,
`index.json` with counts and hashes.
"""

import json
import os
import re
import tarfile
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

FORMAT = "ediffi-pictures-1"
INDEX = "index.json"
_SHARD = re.compile(r"(\d{5}|[1-9]\d{5,})\.tar", re.ASCII)


class PictureShards:
    """Pictures 0 to `count - 1` in shards: a `Store`, whose unit is a shard.

    Args:
        folder: need not exist.
        count: how many pictures it is for.
        shard_size: pictures a shard; the last may hold fewer.

    Raises:
        ValueError: `count` or `shard_size` is below 1.
    """

    def __init__(self, folder: Path, count: int, shard_size: int) -> None:
        for name, value in (("count", count), ("shard_size", shard_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.folder, self._count, self.shard_size = folder, count, shard_size
        self.layout: Mapping[str, Any] = {"kind": "shards", "shard_size": shard_size}
        self._members: dict[Path, dict[str, tuple[int, int]]] = {}

    @classmethod
    def read(cls, folder: Path) -> "PictureShards":
        """The shards that a folder's index lists.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: it is broken or of another format, or a shard that it lists is missing or has another size.
        """
        path = folder / INDEX
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            if index["format"] != FORMAT:
                raise ValueError(f"it has the format {index['format']!r}, and this version reads {FORMAT!r}")
            shards = cls(folder, int(index["count"]), int(index["shard_size"]))
            listed = [(row["file"], int(row["bytes"])) for row in index["shards"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no index of pictures: {error}") from None
        if [name for name, _ in listed] != [shard.name for shard in shards._shards()]:
            raise ValueError(f"{path} does not list the shards of {len(shards)} pictures")
        for name, size in listed:
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise ValueError(f"{folder / name} is missing or does not have the {size} bytes that {INDEX} says")
        return shards

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Image.Image:
        return open_image(self._bytes(index), self.name(index))

    def name(self, index: int) -> str:
        """Its shard, and its member there: `00000.tar/00007.png`."""
        if not 0 <= index < len(self):
            raise IndexError(f"no picture {index} among {len(self)}")
        return f"{index // self.shard_size:05d}.tar/{index:05d}.png"

    def fingerprint(self) -> str:
        """SHA-256 of the index."""
        return files.sha256(self.folder / INDEX)

    def unit(self, batch_size: int) -> int:
        """A shard; see `Store.unit`."""
        if self.shard_size % batch_size:
            raise ValueError(f"shard_size must be a multiple of batch_size, got {self.shard_size} and {batch_size}")
        return self.shard_size

    def count(self) -> int:
        """How many pictures are in the shards that are there."""
        here = set(os.listdir(self.folder))
        last = len(self._shards()) - 1
        sizes = [self.shard_size] * last + [len(self) - last * self.shard_size]
        return sum(size for size, path in zip(sizes, self._shards(), strict=True) if path.name in here)

    def strangers(self) -> list[str]:
        """Names of tar files that are none of its shards."""
        shards = {path.name for path in self._shards()}
        return sorted(name for name in os.listdir(self.folder) if name.endswith(".tar") and name not in shards)

    def stock(self, numbers: range, settings: str) -> Stock:
        """Look whether this shard has its hash, and is of this run; see `Store.stock`."""
        path = self._shard(numbers.start)
        if not path.is_file():
            return Stock(numbers)
        if _hash_beside(path) != files.sha256(path):
            return Stock(numbers, len(numbers))
        self._members.pop(path, None)
        try:
            for index in (numbers[0], numbers[-1]):
                stamp.check(self._bytes(index), str(self.folder / self.name(index)), Stamp(index, settings))
        except BadImageError:
            return Stock(numbers, len(numbers))
        return Stock(())

    @contextmanager
    def writing(self, numbers: range, settings: str) -> Iterator[Write]:
        """A context in which all pictures of this shard are written, in order; then it is renamed into its place."""
        from webdataset import TarWriter  # which imports torch

        path = self._shard(numbers.start)
        beside = path.with_name(path.name + ".tmp")
        with TarWriter(str(beside), encoder=False, mtime=0.0) as tar:

            def write(index: int, image: Image.Image, prompt: str) -> None:
                mark = Stamp(index, settings)
                content = {"json": str(mark).encode(), "png": stamp.encode(image, mark), "txt": prompt.encode()}
                tar.write({"__key__": f"{index:05d}", **content})

            yield write
        files.replace(_beside(path), f"{files.sha256(beside)}  {path.name}\n".encode())
        beside.replace(path)
        self._members.pop(path, None)

    def finish(self, settings: str) -> None:
        """Make sure that all are there, and write the index; see `Store.finish`."""
        check_complete(self)
        rows = [
            {
                "file": path.name,
                "count": min(self.shard_size, len(self) - number * self.shard_size),
                "bytes": path.stat().st_size,
                "sha256": _hash_beside(path),
            }
            for number, path in enumerate(self._shards())
        ]
        index = {"format": FORMAT, "count": len(self), "shard_size": self.shard_size, "settings": settings}
        files.replace(self.folder / INDEX, (json.dumps({**index, "shards": rows}, indent=1) + "\n").encode())

    def _shard(self, index: int) -> Path:
        return self.folder / self.name(index).partition("/")[0]

    def _shards(self) -> list[Path]:
        return [self._shard(index) for index in range(0, len(self), self.shard_size)]

    def _bytes(self, index: int) -> bytes:
        """The PNG file of a picture; empty if its shard lacks it."""
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


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _hash_beside(path: Path) -> str | None:
    """The hash that stands beside a shard."""
    try:
        return _beside(path).read_text(encoding="utf-8").partition(" ")[0]
    except (FileNotFoundError, UnicodeDecodeError):
        return None
