"""What a pass over pictures has found, on disk: one row for each picture, written by many processes, gone on with.

    pass.json       what the folder is for, and its layout; written first
    features.npy    float32 [n, d], where features are taken
    scores.npy      float32 [n], where captions are scored
    measured.npy    float64 [n, k], what the data set measures itself
    states.npy      uint8 [n]: 0 not yet, 1 fine, 2 broken and left out, more: odd and converted

Rows are written with `pwrite` and not through a mapping: two machines that map one page of a shared disk overwrite each
other's half of it. The states of a block are written after its values, so a process may be killed at any moment.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from ediffi.evaluation.metrics.frechet import Moments

FORMAT = "ediffi-pass-1"
FILE = "pass.json"
FINE, BROKEN = 1, 2
ODD = ("animated", "16-bit or float", "transparent", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La", "other")
"""Kinds of odd pictures; the first has the state 3."""
CHUNK = 1024
"""Rows in memory at a time."""


@dataclass(frozen=True)
class Layout:
    """What a folder of rows is for, and what is in it.

    Attributes:
        key: what the rows depend on, plain JSON values; a folder with another key is refused.
        count: how many pictures.
        size: width and height that all of them have.
        width: numbers in a row of features; 0 for none.
        scored: whether captions are scored.
        fields: names of what the data set measures itself.
    """

    key: Mapping[str, Any]
    count: int
    size: tuple[int, int]
    width: int = 0
    scored: bool = False
    fields: Sequence[str] = ()

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Empty arrays that have the row shape and type of each file."""
        columns = {"states": np.empty((0,), np.uint8)}
        if self.width:
            columns["features"] = np.empty((0, self.width), np.float32)
        if self.scored:
            columns["scores"] = np.empty((0,), np.float32)
        if self.fields:
            columns["measured"] = np.empty((0, len(self.fields)), np.float64)
        return columns


class Table:
    """The files of one pass, open for reading and writing rows.

    Args:
        folder: with its pass.json.
        layout: what is in it.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self.columns = layout.columns
        self.heads = {name: _head(column, layout.count) for name, column in self.columns.items()}

    def create(self) -> None:
        """Make the files that are not there; what is there stays, so every process may do it."""
        for name, column in self.columns.items():
            head, row = self.heads[name], column.dtype.itemsize * int(np.prod(column.shape[1:], dtype=int))
            file = os.open(self.folder / f"{name}.npy", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                os.pwrite(file, head, 0)
                os.ftruncate(file, len(head) + row * self.layout.count)
            finally:
                os.close(file)

    def write(self, name: str, start: int, rows: np.ndarray) -> None:
        """Write consecutive rows of a file."""
        column = self.columns[name]
        assert (rows.dtype, rows.shape[1:]) == (column.dtype, column.shape[1:])
        file = os.open(self.folder / f"{name}.npy", os.O_RDWR)
        try:
            content = memoryview(rows.tobytes())
            offset = len(self.heads[name]) + start * rows[:1].nbytes
            while content:
                written = os.pwrite(file, content, offset)
                content, offset = content[written:], offset + written
        finally:
            os.close(file)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read consecutive rows of a file into memory."""
        column = self.columns[name]
        stop = self.layout.count if stop is None else min(stop, self.layout.count)
        shape = (stop - start, *column.shape[1:])
        size = column.dtype.itemsize * int(np.prod(column.shape[1:], dtype=int))
        with (self.folder / f"{name}.npy").open("rb") as file:
            file.seek(len(self.heads[name]) + start * size)
            content = file.read(shape[0] * size)
        if len(content) != shape[0] * size:
            raise ValueError(f"{self.folder / f'{name}.npy'} is truncated; delete the folder and begin again")
        return np.frombuffer(content, column.dtype).reshape(shape)


def _head(column: np.ndarray, count: int) -> bytes:
    """How a .npy file of `count` such rows begins."""
    import io

    head = io.BytesIO()
    shape = (count, *column.shape[1:])
    description = {"descr": np.lib.format.dtype_to_descr(column.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, description)
    return head.getvalue()


def open_table(folder: Path, layout: Layout) -> Table:
    """The table of a folder, made if it is not there; safe to be called by many processes at once.

    Raises:
        ValueError: the folder is for something else.
    """
    found = read_layout(folder)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"format": FORMAT, **asdict(layout)}, indent=1, ensure_ascii=False) + "\n"
        beside = folder / f"{FILE}.{uuid4().hex}.tmp"  # of its own: another process may be here too
        beside.write_text(content, encoding="utf-8")
        beside.replace(folder / FILE)
        found = layout
    names = sorted({*found.key, *layout.key})
    if differing := [name for name in names if found.key.get(name) != layout.key.get(name)]:
        raise ValueError(
            f"{folder} holds measurements with other {', '.join(differing)}; delete it or take another folder"
        )
    table = Table(folder, found)
    table.create()
    return table


def read_layout(folder: Path) -> Layout | None:
    """What a folder of rows is for; None if there are none.

    Raises:
        ValueError: its pass.json is broken.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return Layout(**content | {"size": tuple(content["size"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is broken ({error}); delete the folder and begin again") from None


@dataclass(frozen=True)
class Rows:
    """The rows of pictures that are judged.

    Attributes:
        table: where they are.
        indices: numbers of the pictures, in order; those that could not be read are not among them.
        odd: how many pictures of each unusual kind were converted.
        broken: numbers of those that could not be read.
    """

    table: Table
    indices: np.ndarray
    odd: Mapping[str, int] = field(default_factory=dict)
    broken: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def read(cls, folder: Path, wanted: int | None = None) -> "Rows":
        """The rows of a pass that is done.

        Args:
            folder: of the pass.
            wanted: how many pictures are to be judged: the first that could be read. None for all that could be.

        Raises:
            FileNotFoundError: there is no pass.
            ValueError: it is not done, or fewer than `wanted` pictures could be read.
        """
        layout = read_layout(folder)
        if layout is None:
            raise FileNotFoundError(f"{folder} holds no measurements")
        table = Table(folder, layout)
        states = table.read("states")
        if missing := int((states == 0).sum()):
            raise ValueError(f"{missing} of {len(states)} pictures have not been measured yet: run it again to go on")
        (indices,), (broken,) = np.nonzero(states != BROKEN), np.nonzero(states == BROKEN)
        if len(indices) < (wanted or 1):
            raise ValueError(f"{wanted or 1} pictures were asked for, and there are {len(indices)}")
        indices = indices[:wanted]
        counts = {kind: int((states[indices] == BROKEN + 1 + number).sum()) for number, kind in enumerate(ODD)}
        return cls(table, indices, {kind: n for kind, n in counts.items() if n}, broken.tolist())

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The rows of a file, some at a time."""
        for start in range(0, self.table.layout.count, CHUNK):
            low, high = np.searchsorted(self.indices, (start, start + CHUNK))
            if low < high:
                yield self.table.read(name, start, start + CHUNK)[self.indices[low:high] - start]

    def moments(self) -> Moments:
        """Mean and covariance of the features; memory does not grow with the number of pictures."""
        moments = Moments.zero(self.table.layout.width)
        for rows in self.blocks("features"):
            moments = moments.update(torch.from_numpy(rows))
        return moments

    def features(self) -> Float32[Tensor, "n d"]:
        """The features; mapped from disk where no row is left out."""
        if len(self) == self.table.layout.count:
            return torch.from_numpy(np.load(self.table.folder / "features.npy", mmap_mode="c"))
        return torch.from_numpy(np.concatenate(list(self.blocks("features"))))

    def clip_score(self) -> float:
        """The mean of the pictures' scores."""
        return float(np.concatenate(list(self.blocks("scores"))).mean(dtype=np.float64))

    def measured(self) -> dict[str, float]:
        """The means of what the data set measures, over the pictures that each applies to; nan if there are none."""
        if not self.table.layout.fields:
            return {}
        values = np.concatenate(list(self.blocks("measured")))
        known = ~np.isnan(values)
        means = np.where(known, values, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
        return dict(zip(self.table.layout.fields, means.tolist(), strict=True))
