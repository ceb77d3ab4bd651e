"""Whether shards are what they should be: whole, readable to the last pixel, and the ones that their index means."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ediffi.data.embedding.embed import lacks_for_embedding
from ediffi.data.index import INDEX, Shard, write_index
from ediffi.data.known import known_shards
from ediffi.data.shards import caption_of, embeddings_of, metadata_of, picture_of
from ediffi.data.tar import PICTURES, Raw, Tally, read_samples
from ediffi.io import urls

READERS = 4


@dataclass
class Checked:
    """A shard that was read to its end.

    Attributes:
        place: of the shard.
        tally: what is in it.
        problems: what is wrong with it, a sentence each.
        has_hash: whether an index tells what its hash should be.
    """

    place: str
    tally: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)
    has_hash: bool = False


def verify(shards: Sequence[str], decode: bool = True) -> Iterator[Checked]:
    """Check shards, in order, under a bar; those beside an index against it.

    Args:
        shards: files or URLs.
        decode: decode every picture, caption and tensor as well.
    """
    known = known_shards(shards)
    with ThreadPoolExecutor(READERS) as pool:
        checks = pool.map(lambda place: check_shard(place, known.get(place), decode), shards)
        yield from tqdm(checks, total=len(shards), unit="shard", desc="verify", disable=None)


def check_shard(place: str, known: Shard | None = None, decode: bool = True) -> Checked:
    """Read a shard to its end, and compare it with what an index tells of it; nothing is raised."""
    checked = Checked(place, has_hash=known is not None and bool(known.sha256))
    damaged: dict[str, int] = {}
    try:
        for raw in read_samples(place, checked.tally, lacks_for_embedding):
            for what in damages(raw) if decode else ():
                damaged[what] = damaged.get(what, 0) + 1
    except (OSError, ValueError) as error:
        checked.problems.append(urls.describe_error(place, error) if isinstance(error, OSError) else str(error))
        return checked
    checked.problems += checked.tally.broken
    checked.problems += [f"{urls.redact(place)} has {count} broken {what}" for what, count in damaged.items()]
    if known is not None:
        checked.problems += differences(known, checked.tally)
    return checked


def differences(known: Shard, tally: Tally) -> list[str]:
    """In what a shard is not the one that an index means."""
    place, found = urls.redact(known.place), []
    if known.bytes is not None and known.bytes != tally.bytes:
        found.append(f"{place} has {tally.bytes} bytes, its index says {known.bytes}")
    if known.samples != tally.samples:
        found.append(f"{place} has {tally.samples} complete samples, its index says {known.samples}")
    if known.sha256 and known.sha256 != tally.sha256:
        found.append(f"{place} does not have the sha256 that its index says")
    return found


def damages(raw: Raw) -> list[str]:
    """The members of a sample that cannot be decoded."""
    parts: dict[str, tuple[bool, Callable[[Mapping[str, Any]], Any]]] = {
        "picture": (any(suffix in raw for suffix in PICTURES), picture_of),
        "caption": (True, caption_of),
        "metadata": ("json" in raw, metadata_of),
        "embeddings": ("safetensors" in raw, embeddings_of),
        "array": ("npy" in raw, array_of),
    }
    broken = []
    for name, (there, decoded) in parts.items():
        try:
            if there:
                decoded(raw)
        except ValueError:
            broken.append(name)
    return broken


def array_of(raw: Mapping[str, Any]) -> np.ndarray:
    """The array of a sample's `.npy`; an array of objects, which would have to be unpickled, is refused.

    Raises:
        ValueError: it is broken, or such an array.
    """
    try:
        array = np.load(io.BytesIO(raw["npy"]), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError) as error:
        raise ValueError(f"the array of sample {raw['__key__']!r} cannot be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"the array of sample {raw['__key__']!r} is an archive of several")
    return array


def write_folder_index(folder: Path) -> tuple[Path, Tally]:
    """Write an index of the shards in a folder, as they are.

    Returns:
        The index, and what was read.

    Raises:
        FileExistsError: there is one.
        ValueError: there are no shards, or one is broken.
    """
    index = folder / INDEX
    if index.exists():
        raise FileExistsError(f"{index} exists; `ediffi data verify {folder}` compares the shards with it")
    entries, total = [], Tally()
    for checked in verify(urls.expand([str(folder)]), decode=False):
        if checked.problems:
            raise ValueError(f"{checked.problems[0]}; nothing is written before every shard is whole")
        tally = checked.tally
        entries.append(
            {"file": Path(checked.place).name, "samples": tally.samples, "bytes": tally.bytes, "sha256": tally.sha256}
            | tally.told()
        )
        total.add(tally)
    return write_index(index, entries, {"dataset": folder.resolve().name}), total
