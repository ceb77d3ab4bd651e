"""Whether shards are whole, readable to the last pixel, and as their index describes them."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ediffi.data.image_facts import ImageFacts, side_of
from ediffi.data.index import INDEX, Index, Shard, indexed_shards, write_index
from ediffi.data.shards import caption_of, embeddings_of, image_of, metadata_of, reject_embedded, reject_for_embedding
from ediffi.data.tar import RawSample, Tally, each_shard, read_samples
from ediffi.io import urls

Decoder = Callable[[Mapping[str, Any]], Any]


@dataclass
class CheckedShard:
    """A shard that was read to its end, and one sentence for each problem; `has_hash`: an index lists its hash."""

    url: str
    tally: Tally = field(default_factory=Tally)
    facts: ImageFacts = field(default_factory=ImageFacts)
    problems: list[str] = field(default_factory=list)
    has_hash: bool = False

    def add(self, other: "CheckedShard") -> None:
        """Add the counts and problems of another shard."""
        self.tally.add(other.tally)
        self.facts.update(other.facts)
        self.problems += other.problems


def verify(shards: Sequence[str], decode: bool = True, image_size: int = 0) -> Iterator[CheckedShard]:
    """Check shards, in order, with a progress bar, against the index beside them; `decode` every member as well. Images
    with a side below `image_size` are problems too."""
    known = indexed_shards(shards)
    return each_shard(lambda url: check_shard(url, known.get(url), decode, image_size), shards, "verify")


def check_shard(url: str, known: Shard | None = None, decode: bool = True, image_size: int = 0) -> CheckedShard:
    """Read a shard to its end, and compare it with its entry in an index; nothing is raised."""
    checked = CheckedShard(url, has_hash=known is not None and bool(known.sha256))
    tally, damaged, name = checked.tally, list[str](), urls.redact(url)
    encoders = {} if known is None else known.encoders
    try:
        for raw in read_samples(url, tally, reject_embedded if encoders else reject_for_embedding):
            checked.facts.add(raw)
            damaged += _damages(raw, encoders) if decode else []
            if 0 < (side := side_of(raw)) < image_size:
                damaged.append(f"the image of sample {raw['__key__']!r} has a side of {side}, below {image_size}")
    except (OSError, ValueError) as error:
        checked.problems.append(urls.describe_error(url, error) if isinstance(error, OSError) else str(error))
        return checked
    checked.problems += [*tally.broken, *(f"{name}: {problem}" for problem in damaged)]
    if known is not None:
        if known.bytes is not None and known.bytes != tally.bytes:
            checked.problems.append(f"{name} has {tally.bytes} bytes, its index says {known.bytes}")
        if known.samples != tally.samples:
            checked.problems.append(f"{name} has {tally.samples} complete samples, its index says {known.samples}")
        if known.sha256 and known.sha256 != tally.sha256:
            checked.problems.append(f"{name} has another sha256 than its index says")
    return checked


def _damages(raw: RawSample, encoders: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each member of a sample that cannot be decoded; if its index has `encoders`, it must have their
    embeddings."""
    decoders: list[Decoder] = [image_of, caption_of]
    decoders += [metadata_of] if "json" in raw else []
    decoders += [lambda raw: _finite_embeddings(raw, encoders)] if encoders or "safetensors" in raw else []
    decoders += [array_of] if "npy" in raw else []
    for decoder in decoders:
        try:
            decoder(raw)
        except ValueError as error:
            yield str(error)


def _finite_embeddings(raw: Mapping[str, Any], encoders: Mapping[str, Mapping[str, Any]]) -> None:
    for name, tensor in embeddings_of(raw, encoders).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the embeddings {name} of sample {raw['__key__']!r} are not finite")


def array_of(raw: Mapping[str, Any]) -> np.ndarray:
    """The array of a sample's `.npy`. ValueError: it is broken, or holds objects, which only unpickling could read."""
    try:
        array = np.load(io.BytesIO(raw["npy"]), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError) as error:
        raise ValueError(f"the array of sample {raw['__key__']!r} cannot be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"the array of sample {raw['__key__']!r} is an archive of several")
    return array


def write_folder_index(folder: Path) -> tuple[Path, CheckedShard]:
    """Write an index of the shards in a folder, or complete one that does not record the sizes of images; returns its
    path, and the counts of all shards. FileExistsError: there is a complete one. ValueError: there are no shards, or
    one is broken or another than the index says."""
    index, described, listed = folder / INDEX, {"dataset": folder.resolve().name}, dict[str, Any]()
    if index.exists():
        old = Index.read(folder)
        if all(shard.sides is not None for shard in old.shards):
            raise FileExistsError(f"{index} exists; `ediffi data verify {folder}` compares the shards with it")
        described = {key: value for key, value in old.content.items() if key not in ("format", "shards")}
        listed = {shard.url: entry for shard, entry in zip(old.shards, old.content["shards"], strict=True)}
    total = CheckedShard(str(folder))
    entries = []
    for checked in verify(list(listed) or urls.expand([str(folder)]), decode=False):
        if checked.problems:
            raise ValueError(f"{checked.problems[0]}; no index is written before every shard is whole")
        tally = checked.tally
        known = {"samples": tally.samples, "bytes": tally.bytes, "sha256": tally.sha256, **tally.losses()}
        entry = {"file": Path(checked.url).name, **listed.get(checked.url, known)}
        entries.append(entry | checked.facts.entry())
        total.add(checked)
    return write_index(index, entries, described), total
