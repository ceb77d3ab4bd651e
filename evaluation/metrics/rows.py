"""Measurements of images on disk: one row for each image, written by many processes, in a folder that is resumed.

    pass.json       what the rows depend on, and their layout
    features.npy    float32 [n, d], if features are extracted
    scores.npy      float32 [n], if captions are scored
    measured.npy    float64 [n, k], what the dataset itself measures
    states.npy      uint8 [n]: 0 not measured, 1 fine, 2 broken and left out, above: unusual and converted
    hashes.npy      uint64 [k, n]: of each row of each file, written with it and checked before a number is made of it

The states of a block are written after its values, so a process may be killed at any moment. `pass.json` has its own
SHA-256.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from ediffi.evaluation.metrics.frechet import Moments
from ediffi.io import plain_json

FORMAT = "ediffi-pass-2"
UNHASHED = "ediffi-pass-1"
"""The format of earlier versions, whose rows have no hashes."""
FILE, HASHES = "pass.json", "hashes"
FINE, BROKEN = 1, 2
ODD = ("animated", "16-bit or float", "transparent", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La", "other")
"""Kinds of unusual images; the first one has the state 3."""
CHUNK = 1024
"""Rows in memory at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassLayout:
    """What a folder of rows depends on, and what it holds."""

    key: Mapping[str, Any]  # what the rows depend on, plain JSON; a folder with another key is refused
    count: int
    size: tuple[int, int]  # width and height of every image
    width: int = 0  # length of a row of features; 0 without features
    scored: bool = False  # whether captions are scored
    fields: Sequence[str] = ()  # names of what the dataset measures
    hashed: bool = True  # false in folders of earlier versions

    @property
    def columns(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        """The files by name: type of the numbers, and shape of a row."""
        columns: dict[str, tuple[type, tuple[int, ...]]] = {"states": (np.uint8, ())}
        if self.width:
            columns["features"] = np.float32, (self.width,)
        if self.scored:
            columns["scores"] = np.float32, ()
        if self.fields:
            columns["measured"] = np.float64, (len(self.fields),)
        return columns


@dataclass(frozen=True)
class RowFiles:
    """The files of one pass."""

    folder: Path
    layout: PassLayout

    def read(self, name: str) -> np.ndarray:
        """All rows of a file, mapped from disk."""
        path = self.folder / f"{name}.npy"
        try:
            rows = np.load(path, mmap_mode="c")  # copy on write, for torch, which wants arrays that can be written
        except Exception:  # a damaged header is parsed as Python, and fails as that may
            rows = None
        if rows is None or (rows.dtype, rows.shape) != self._kind(name):
            raise ValueError(f"{path} is missing or broken; delete the folder and start again")
        return rows

    def _kind(self, name: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of a file."""
        if name == HASHES:
            return np.dtype(np.uint64), (len(self.layout.columns), self.layout.count)
        dtype, shape = self.layout.columns[name]
        return np.dtype(dtype), (self.layout.count, *shape)

    def check(self, only: Sequence[str] | None = None) -> None:
        """Check the hash of every row that was measured, of all files or of some. ValueError: a row is not what was
        written."""
        if not self.layout.hashed:
            logger.warning("%s is of an earlier version, without hashes: its rows cannot be checked", self.folder)
            return
        states, hashes = self.read("states"), self.read(HASHES)
        for name, known in zip(self.layout.columns, hashes, strict=True):
            if only is not None and name not in only:
                continue
            rows = self.read(name)
            for index in np.flatnonzero(states if name == "states" else (states > 0) & (states != BROKEN)).tolist():
                if _row_hash(name, index, rows[index]) != known[index]:
                    reason = f"row {index} was changed after it was measured; delete the folder and start again"
                    raise ValueError(f"{self.folder / name}.npy is broken: {reason}")

    def write(self, name: str, start: int, mask: np.ndarray, rows: np.ndarray) -> None:
        """Write the block of rows that begins with `start`: `rows` where `mask` [b] is true, zeros elsewhere."""
        # Not through a memory map: two machines that map one page of a shared disk overwrite each other's part of it.
        dtype, shape = self.layout.columns[name]
        block: np.ndarray = np.zeros((len(mask), *shape), dtype)
        block[mask] = rows
        if self.layout.hashed:
            column = list(self.layout.columns).index(name)
            hashes = np.array([_row_hash(name, start + number, row) for number, row in enumerate(block)], np.uint64)
            self._put(HASHES, column * self.layout.count + start, hashes)
        self._put(name, start, block)

    def _put(self, name: str, start: int, block: np.ndarray) -> None:
        path = self.folder / f"{name}.npy"
        with path.open("r+b") as file:
            file.seek(np.load(path, mmap_mode="r").offset + start * block[:1].nbytes)
            file.write(block.tobytes())


def _row_hash(name: str, index: int, row: np.ndarray | np.generic) -> int:
    """The first 8 bytes of BLAKE2b of a row, its number and its file: rows that change places are noticed, too."""
    digest = hashlib.blake2b(f"{name}:{index}:".encode(), digest_size=8)
    digest.update(row.tobytes())
    return int.from_bytes(digest.digest(), "little")


def _content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the values in `pass.json`, without the hash itself."""
    plain = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def open_rows(folder: Path, layout: PassLayout) -> RowFiles:
    """The files of a folder, which is created if it is missing; many processes may call it at once.

    ValueError: the folder has rows with another key.
    """
    found = read_layout(folder)
    if found is None:
        _create(folder, layout)
        found = read_layout(folder) or layout
    if differing := [name for name in sorted({*found.key, *layout.key}) if found.key.get(name) != layout.key.get(name)]:
        other = " and other ".join(differing)
        raise ValueError(f"{folder} holds measurements with other {other}; delete it or choose another folder")
    return RowFiles(folder, found)


def _create(folder: Path, layout: PassLayout) -> None:
    """Create a folder with all its files in one step; of several processes that do, one succeeds."""
    beside = folder.with_name(f".{folder.name}-{uuid4().hex}.tmp")
    beside.mkdir(parents=True)
    try:
        content = {"format": FORMAT, **asdict(layout)}
        content["sha256"] = _content_hash(content)
        (beside / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files = RowFiles(beside, layout)
        for name in (*layout.columns, HASHES):
            dtype, shape = files._kind(name)
            np.lib.format.open_memmap(beside / f"{name}.npy", "w+", dtype, shape)
        beside.rename(folder)
    except OSError:
        if not (folder / FILE).is_file():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_layout(folder: Path) -> PassLayout | None:
    """The layout of a folder of rows; None if there are none."""
    if not (path := folder / FILE).is_file():
        return None
    try:
        content = plain_json.read(path)
        if content["format"] == UNHASHED:
            content["hashed"] = False
        elif content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, and this version reads {FORMAT!r}")
        elif content.pop("sha256") != _content_hash(content):
            raise ValueError("it has another sha256 than it says, so it was changed")
        del content["format"]
        content["key"].pop("strict", None)  # in the key of earlier versions; it changes no row
        return PassLayout(**content | {"size": tuple(content["size"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is broken ({error}); delete the folder and start again") from None


@dataclass(frozen=True)
class Rows:
    """The rows of a finished pass."""

    files: RowFiles
    indices: np.ndarray  # of the images, in order, without the broken ones
    odd: Mapping[str, int] = field(default_factory=dict)  # how many images of each unusual kind were converted
    broken: Sequence[int] = ()  # indices of the broken images

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def read(cls, folder: Path, wanted: int | None = None) -> "Rows":
        """The rows of a finished pass: of the first `wanted` images that are not broken, or of all of them.

        ValueError: the pass is not finished, a row was changed since, or fewer than `wanted` images are not broken.
        """
        if (layout := read_layout(folder)) is None:
            raise FileNotFoundError(f"{folder} holds no measurements")
        files = RowFiles(folder, layout)
        states = files.read("states")
        if missing := int((states == 0).sum()):
            raise ValueError(f"{missing} of {len(states)} images have not been measured yet; run the command again")
        files.check()
        indices, broken = np.flatnonzero(states != BROKEN), np.flatnonzero(states == BROKEN)
        if len(indices) < (wanted or 1):
            raise ValueError(f"{wanted or 1} images are needed, and {len(indices)} could be read")
        indices = indices[:wanted]
        counts = {kind: int((states[indices] == BROKEN + 1 + number).sum()) for number, kind in enumerate(ODD)}
        return cls(files, indices, {kind: n for kind, n in counts.items() if n}, broken.tolist())

    def moments(self) -> Moments:
        """Mean and covariance of the features; memory does not grow with the number of images."""
        moments, features = Moments.zero(self.files.layout.width), self.files.read("features")
        for start in range(0, self.files.layout.count, CHUNK):
            low, high = np.searchsorted(self.indices, (start, start + CHUNK))
            moments = moments.update(torch.from_numpy(features[self.indices[low:high]]))
        return moments

    def features(self) -> Float32[Tensor, "n d"]:
        """The features; mapped from disk if no row is left out."""
        features = self.files.read("features")
        return torch.from_numpy(features if len(self) == len(features) else features[self.indices])

    def scores(self) -> np.ndarray:
        """The CLIP score of each image [n]."""
        return self.files.read("scores")[self.indices].astype(np.float64)

    def measured(self) -> dict[str, np.ndarray]:
        """What the dataset measures of each image [n], by name; nan where a measure does not apply."""
        fields = self.files.layout.fields
        values = self.files.read("measured")[self.indices] if fields else np.empty((0, 0))
        return dict(zip(fields, values.T, strict=True))
