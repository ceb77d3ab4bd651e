"""Which samples are duplicates of earlier ones, in memory that does not grow with the data set.

A sample is 24 bytes: 128 bits of its hash, and its place (shard, row). They are dealt to parts by their hash, so that
duplicates meet in one part; what is found is dealt to blocks of shards by its place. Between the steps everything is on
disk, and each process has one part or block in memory: of a billion samples, about 100 MB. `on_ray` does the same steps
by Ray Data, which shuffles between machines.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ediffi.io import urls
from ediffi.io.distributed import DistributedContext

PARTS = 256
BLOCK = 256
"""Shards whose duplicates are in one file."""
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])
PLACE = np.dtype("<u8")

Hashes = Callable[[int], Sequence[tuple[int, str]]]
"""Of the shard of a number, row and hash (hexadecimal digits) of each sample that is compared."""


def records_of(number: int, hashes: Sequence[tuple[int, str]]) -> np.ndarray:
    """The records of a shard."""
    records = np.empty(len(hashes), RECORD)
    if hashes:
        halves = np.frombuffer(bytes.fromhex("".join(digest for _, digest in hashes)), ">u8").reshape(-1, 2)
        records["high"], records["low"] = halves.T
        records["place"] = (number << 32) + np.array([row for row, _ in hashes], PLACE)
    return records


def duplicates_of(records: Mapping[str, Any] | np.ndarray) -> np.ndarray:
    """Of records among which are all that share a hash, the places of those that are not the first of it."""
    high, low, place = (np.asarray(records[name]) for name in ("high", "low", "place"))
    order = np.lexsort((place, low, high))
    same = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    return place[order[1:][same]].astype(PLACE)


def blocks(shards: int) -> range:
    """The numbers of the blocks of so many shards."""
    return range(-(-shards // BLOCK))


def block_name(block: int) -> str:
    """The file with the duplicates of a block."""
    return f"{block:05d}.npy"


def write_block(folder: str, block: int, places: np.ndarray) -> None:
    """Write the duplicates of a block of shards."""
    with urls.placing(urls.join(folder, block_name(block))) as path, path.open("wb") as file:
        np.save(file, np.sort(places))


def rows_of(places: np.ndarray, number: int) -> np.ndarray:
    """The rows of a shard in the duplicates of its block."""
    return (places[(places >> np.uint64(32)) == number] & np.uint64(2**32 - 1)).astype(int)


def find(folder: Path, shards: int, hashes: Hashes, context: DistributedContext) -> None:
    """Write the duplicates of all blocks of shards into a folder, with the other processes of a run. A folder in which
    they are stays as it is."""
    if context.together(lambda: all((folder / block_name(block)).is_file() for block in blocks(shards))):
        return
    spill, rank, size = folder / "spilled", context.rank, context.world_size
    if rank == 0:
        spill.mkdir(parents=True, exist_ok=True)
        for left in spill.iterdir():  # by a run that was interrupted
            left.unlink()
    context.gather(None)
    for number in range(rank, shards, size):
        records = records_of(number, hashes(number))
        _spill(spill, "part", rank, records["high"] >> np.uint64(56), records)
    context.gather(None)
    for part in range(rank, PARTS, size):
        places = duplicates_of(_spilled(spill, "part", part, RECORD))
        _spill(spill, "block", rank, (places >> np.uint64(32)) // BLOCK, places)
    context.gather(None)
    for block in blocks(shards)[rank::size]:
        write_block(str(folder), block, _spilled(spill, "block", block, PLACE))
    context.gather(None)
    if rank == 0:
        urls.remove_folder(str(spill))


def _spill(folder: Path, what: str, rank: int, keys: np.ndarray, values: np.ndarray) -> None:
    """Append values to the file of their key; each process has files of its own."""
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    ends = [*starts[1:], len(order)]
    for key, start, end in zip(found, starts, ends[: len(found)], strict=True):
        with (folder / f"{what}-{int(key)}-{rank}").open("ab") as file:
            file.write(values[order[start:end]].tobytes())


def _spilled(folder: Path, what: str, key: int, kind: np.dtype) -> np.ndarray:
    """What all processes have spilled of a key; the files are removed."""
    paths = sorted(folder.glob(f"{what}-{key}-*"))
    found = np.concatenate([np.empty(0, kind), *(np.fromfile(path, kind) for path in paths)])
    for path in paths:
        path.unlink()
    return found
