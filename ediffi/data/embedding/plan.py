"""What embedding a data set will take, told before it begins: space and time, from a few batches that are measured."""

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ediffi.data.embedding.embed import Embedder, lacks_for_embedding
from ediffi.data.embedding.encode import padded_bytes
from ediffi.data.tar import Raw, Tally, read_samples
from ediffi.io import urls

PROBE = 256
"""Samples that are measured."""
WARM_UP = 16
LOOKED_AT = 8
"""Shards that are looked into for samples to measure."""
SIZED = 64
"""Remote shards whose size is asked for; the rest are taken to be as large."""
BLOCK, RECORD = 512, 10_240


@dataclass(frozen=True)
class Plan:
    """What is expected of the shards that are not embedded yet.

    Attributes:
        shards: how many.
        source_bytes: of the shards to read.
        samples: complete ones.
        measured: samples that the expectation was measured on.
        media_bytes: of pictures, captions and metadata in the shards to be written.
        embedding_bytes: of the embeddings in them.
        padded_share: the embeddings' bytes, divided by those in float16 and padded to the longest.
        seconds: of the whole work.
        processes: that share it.
    """

    shards: int
    source_bytes: int
    samples: int
    measured: int
    media_bytes: int
    embedding_bytes: int
    padded_share: float
    seconds: float
    processes: int

    def lines(self, folder: Path) -> list[str]:
        """The plan in words."""
        free = free_bytes(folder)
        written = self.media_bytes + self.embedding_bytes
        speed = self.samples / max(self.seconds, 1e-9)
        return [
            f"to embed: {many(self.shards, 'shard')}, {told(self.source_bytes)}, about "
            f"{many(self.samples, 'sample')} (from {self.measured} that were measured)",
            f"to write: about {told(written)} in {folder}, where {told(free)} are free: "
            f"{told(self.embedding_bytes)} of embeddings, {self.padded_share:.2f} of what they would be padded in "
            f"float16, and {told(self.media_bytes)} of pictures, captions and metadata",
            f"time:     about {duration(self.seconds)} at {speed:,.0f} samples/s, "
            f"{many(self.processes, 'process', 'es')}",
        ]

    def check_space(self, folder: Path) -> None:
        """Make sure that it fits.

        Raises:
            ValueError: there is less free space than is expected to be written.
        """
        written, free = self.media_bytes + self.embedding_bytes, free_bytes(folder)
        if written > free:
            raise ValueError(f"{folder} has {told(free)} of free space, and about {told(written)} will be written")


def measure(shards: Sequence[str], embedder: Embedder, processes: int = 1) -> Plan:
    """Embed the first samples, and expect the rest to be like them.

    Args:
        shards: the sources that are left to do; at least one.
        embedder: that will do it.
        processes: that will share the work; they are expected to be equally fast, and no more than the shards.

    Raises:
        OSError: a shard cannot be read.
        ValueError: none of the first shards has a sample to embed.
    """
    tally = Tally()
    began = time.perf_counter()
    samples = _first_samples(shards, tally)
    reading = time.perf_counter() - began
    seen = tally.samples + sum(tally.dropped.values())
    with torch.inference_mode():
        if len(samples) > 2 * WARM_UP:  # the first call of a network is slow
            list(embedder.rows(samples[:WARM_UP], Tally()))
        began = time.perf_counter()
        rows = list(embedder.rows(samples, tally))
        sizes = [_written(raw, tensors) for raw, tensors in rows]
    if not rows:
        raise ValueError(f"no sample to embed in {_losses(shards, tally)}")
    each = (time.perf_counter() - began + reading) / seen
    source = _total_bytes(shards)
    expected = source / max(tally.bytes / seen, 1)
    kept = expected / seen  # a sample that was measured stands for so many
    padded = padded_bytes(embedder.encoders, [tensors for _, tensors in rows])
    media, embeddings = (kept * sum(size[part] for size in sizes) for part in (0, 1))
    return Plan(
        shards=len(shards),
        source_bytes=source,
        samples=round(kept * len(rows)),
        measured=len(rows),
        media_bytes=round(media) + RECORD * len(shards),
        embedding_bytes=round(embeddings),
        padded_share=sum(t.nbytes for _, tensors in rows for t in tensors.values()) / max(padded, 1),
        seconds=each * expected / min(processes, len(shards)),
        processes=min(processes, len(shards)),
    )


def check_there(shards: Sequence[str]) -> None:
    """Make sure that local shards are files.

    Raises:
        FileNotFoundError: some are not; the message counts them and names the first.
    """
    missing = [place for place in shards if not urls.is_remote(place) and not Path(place).is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(shards):,} shards are not there, the first is {missing[0]}")


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def told(count: float) -> str:
    """Bytes for people: "1.2 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} days {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def many(count: int, noun: str, plural: str = "s") -> str:
    """A number of things: "1 shard", "2,000 shards"."""
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def _first_samples(shards: Sequence[str], tally: Tally) -> list[Raw]:
    samples: list[Raw] = []
    for place in shards[:LOOKED_AT]:
        one = Tally()
        reader = read_samples(place, one, lacks_for_embedding)
        samples += islice(reader, PROBE - len(samples))
        reader.close()  # type: ignore[attr-defined]
        tally.add(one)
        if len(samples) == PROBE:
            break
    if not samples:
        raise ValueError(f"no sample to embed in {_losses(shards, tally)}")
    return samples


def _losses(shards: Sequence[str], tally: Tally) -> str:
    lost = [f"{count} {reason}" for reason, count in (tally.dropped + tally.skipped).most_common(5)]
    first = "the first shards" if len(shards) > 1 else urls.redact(shards[0])
    return f"{first}: {'; '.join([*lost, *tally.broken[:2]]) or 'they are empty'}"


def _written(raw: Raw, tensors: dict[str, Tensor]) -> tuple[int, int]:
    """Bytes in a tar of a sample's media, and of its embeddings."""
    media = [len(data) for name, data in raw.items() if name != "__key__"]
    embeddings = len(safetensors.torch.save(tensors))
    return sum(_blocks(size) for size in media), _blocks(embeddings)


def _blocks(size: int) -> int:
    return BLOCK + -(-size // BLOCK) * BLOCK


def _total_bytes(shards: Sequence[str]) -> int:
    local = [place for place in shards if not urls.is_remote(place)]
    remote = [place for place in shards if urls.is_remote(place)]
    asked = remote[:: max(1, len(remote) // SIZED)]
    size: Callable[[str], int] = urls.size
    with ThreadPoolExecutor(8) as pool:
        far = sum(pool.map(size, asked)) * len(remote) / max(len(asked), 1)
    return round(sum(map(size, local)) + far)
