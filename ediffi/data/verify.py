"""Whether shards are whole, readable to the last pixel, and as their index describes them."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ediffi.data.index import INDEX, Shard, indexed_shards, write_index
from ediffi.data.shards import caption_of, embeddings_of, image_of, metadata_of, reject_for_embedding
from ediffi.data.tar import RawSample, Tally, each_shard, read_samples
from ediffi.io import urls


@dataclass
class CheckedShard:
    """A shard that was read to its end, and one sentence for each problem; `has_hash`: an index lists its hash."""

    url: str
    tally: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)
    has_hash: bool = False


def verify(shards: Sequence[str], decode: bool = True) -> Iterator[CheckedShard]:
    """Check shards, in order, with a progress bar, against the index beside them; `decode` every member as well."""
    known = indexed_shards(shards)
    return each_shard(lambda url: check_shard(url, known.get(url), decode), shards, "verify")


def check_shard(url: str, known: Shard | None = None, decode: bool = True) -> CheckedShard:
    """Read a shard to its end, and compare it with its entry in an index; nothing is raised."""
    checked = CheckedShard(url, has_hash=known is not None and bool(known.sha256))
    tally, damaged, name = checked.tally, Counter[str](), urls.redact(url)
    try:
        for raw in read_samples(url, tally, reject_for_embedding):
            damaged.update(_damages(raw) if decode else ())
    except (OSError, ValueError) as error:
        checked.problems.append(urls.describe_error(url, error) if isinstance(error, OSError) else str(error))
        return checked
    checked.problems += [*tally.broken, *(f"{name} has {count} broken {what}" for what, count in damaged.items())]
    if known is not None:
        if known.bytes is not None and known.bytes != tally.bytes:
            checked.problems.append(f"{name} has {tally.bytes} bytes, its index says {known.bytes}")
        if known.samples != tally.samples:
            checked.problems.append(f"{name} has {tally.samples} complete samples, its index says {known.samples}")
        if known.sha256 and known.sha256 != tally.sha256:
            checked.problems.append(f"{name} has another sha256 than its index says")
    return checked


def _damages(raw: RawSample) -> Iterator[str]:
    """The members of a sample that cannot be decoded."""
    decoders: dict[str, Callable[[Mapping[str, Any]], Any]] = {"image": image_of, "caption": caption_of}
    optional = {
        "json": ("metadata", metadata_of),
        "safetensors": ("embeddings", embeddings_of),
        "npy": ("array", array_of),
    }
    decoders |= dict(named for suffix, named in optional.items() if suffix in raw)
    for name, decoder in decoders.items():
        try:
            decoder(raw)
        except ValueError:
            yield name


def array_of(raw: Mapping[str, Any]) -> np.ndarray:
    """The array of a sample's `.npy`. ValueError: it is broken, or holds objects, which only unpickling could read."""
    try:
        array = np.load(io.BytesIO(raw["npy"]), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError) as error:
        raise ValueError(f"the array of sample {raw['__key__']!r} cannot be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"the array of sample {raw['__key__']!r} is an archive of several")
    return array


def write_folder_index(folder: Path) -> tuple[Path, Tally]:
    """Write an index of the shards in a folder; returns its path, and the counts. FileExistsError: there is one.
    ValueError: there are no shards, or one is broken."""
    index = folder / INDEX
    if index.exists():
        raise FileExistsError(f"{index} exists; `ediffi data verify {folder}` compares the shards with it")
    entries, total = [], Tally()
    for checked in verify(urls.expand([str(folder)]), decode=False):
        if checked.problems:
            raise ValueError(f"{checked.problems[0]}; no index is written before every shard is whole")
        tally = checked.tally
        known = {"samples": tally.samples, "bytes": tally.bytes, "sha256": tally.sha256}
        entries.append({"file": Path(checked.url).name, **known, **tally.losses()})
        total.add(tally)
    return write_index(index, entries, {"dataset": folder.resolve().name}), total
