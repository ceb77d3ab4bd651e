"""What embedding a dataset will take, in space and time: measured on a few batches before the run begins."""

import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ediffi.data.embedding.captions import Reading, read_captions
from ediffi.data.embedding.encode import Embedder
from ediffi.data.shards import caption_of, reject_for_embedding
from ediffi.data.tar import RawSample, Tally, read_samples
from ediffi.io import urls
from ediffi.registry.types import Encoder

MEASURED = 256  # samples that are measured
WARM_UP = 16
SHARDS_READ = 8  # shards that are searched for samples to measure
SIZED = 64  # remote shards whose size is looked up; the others are taken to be as large
BLOCK, RECORD = 512, 10_240  # bytes: a tar pads members to blocks, and itself to records


@dataclass(frozen=True)
class EmbeddingEstimate:
    """What to expect of the shards that are not embedded yet."""

    shards: int
    source_bytes: int
    samples: int
    measured: int  # samples that the estimate was measured on
    media_bytes: int  # of images, captions and metadata in the shards to be written
    embedding_bytes: int
    padded_share: float  # the embeddings' bytes, divided by those in float16 and padded to the longest
    seconds: float
    processes: int
    readings: Mapping[str, Reading]  # by source, of the captions that were measured

    def lines(self, folder: Path | str) -> list[str]:
        """The estimate as text, for an output folder."""
        written, free = self.media_bytes + self.embedding_bytes, free_bytes(folder)
        there = f"{folder}" if free is None else f"{folder}, where {format_bytes(free)} are free"
        return [
            f"to embed: {plural(self.shards, 'shard')}, {format_bytes(self.source_bytes)}, about "
            f"{plural(self.samples, 'sample')} (from {self.measured} that were measured)",
            f"to write: about {format_bytes(written)} in {there}: "
            f"{format_bytes(self.embedding_bytes)} of embeddings, {self.padded_share:.2f} of what they would be padded "
            f"in float16, and {format_bytes(self.media_bytes)} of images, captions and metadata",
            f"time:     about {format_duration(self.seconds)} at {self.samples / max(self.seconds, 1e-9):,.0f} "
            f"samples/s, {plural(self.processes, 'process', 'es')}",
            *(reading.line(source) for source, reading in self.readings.items()),
        ]

    def check_space(self, folder: Path | str) -> None:
        """ValueError if less space is free than is expected to be written."""
        written, free = self.media_bytes + self.embedding_bytes, free_bytes(folder)
        if free is not None and written > free:
            sizes = f"about {format_bytes(written)} will be written, and {folder} has {format_bytes(free)} free"
            raise ValueError(sizes)


def estimate(shards: Sequence[str], embedder: Embedder, processes: int = 1) -> EmbeddingEstimate:
    """Embed the first samples of the shards that are left, and extrapolate to `processes` that are equally fast.
    ValueError: none of the first shards has a sample to embed."""
    tally, began = Tally(), time.perf_counter()
    samples = _first_samples(shards, tally)
    reading = time.perf_counter() - began
    seen = tally.samples + tally.dropped.total()
    if len(samples) > 2 * WARM_UP:  # the first call of a network is slow
        embedder.rows(samples[:WARM_UP], Tally())
    began = time.perf_counter()
    rows = embedder.rows(samples, tally)
    media = sum(tar_bytes(len(data)) for raw, _ in rows for name, data in raw.items() if name != "__key__")
    embeddings = sum(tar_bytes(len(safetensors.torch.save(tensors))) for _, tensors in rows)
    if not rows:
        lost = [f"{count} {reason}" for reason, count in (tally.dropped + tally.skipped).most_common(5)]
        first = "the first shards" if len(shards) > 1 else urls.redact(shards[0])
        why = "; ".join([*lost, *tally.broken[:2]]) or "they are empty"
        raise ValueError(f"no sample to embed in {first}: {why}")
    each = (time.perf_counter() - began + reading) / seen
    source = _total_bytes(shards)
    expected = source / max(tally.bytes / seen, 1)
    kept = expected / seen  # samples for each measured one
    stored = sum(tensor.nbytes for _, tensors in rows for tensor in tensors.values())
    return EmbeddingEstimate(
        shards=len(shards),
        source_bytes=source,
        samples=round(kept * len(rows)),
        measured=len(rows),
        media_bytes=round(kept * media) + RECORD * len(shards),
        embedding_bytes=round(kept * embeddings),
        padded_share=stored / max(padded_bytes(embedder.encoders, [tensors for _, tensors in rows]), 1),
        seconds=each * expected / min(processes, len(shards)),
        processes=min(processes, len(shards)),
        readings=read_captions(embedder.encoders, [caption_of(raw) for raw, _ in rows]),
    )


def padded_bytes(encoders: Mapping[str, Encoder], rows: Sequence[Mapping[str, Tensor]]) -> int:
    """Bytes of embeddings in float16, padded to the most tokens that their encoder reads."""
    total = 0
    for name, tensor in (item for row in rows for item in row.items()):
        source, _, kind = name.rpartition(".")
        longest = getattr(encoders.get(source), "max_tokens", len(tensor))
        total += 2 * (longest * tensor.shape[1] if kind == "tokens" else len(tensor))
    return total


def tar_bytes(size: int) -> int:
    """Bytes that a member of some size takes in a tar."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def free_bytes(folder: Path | str) -> int | None:
    """Free space on the disk of a folder, which need not exist yet; None for a URL."""
    if urls.is_remote(str(folder)):
        return None
    path = Path(folder).absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def format_bytes(count: float) -> str:
    """Bytes as text: "1.2 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def format_duration(seconds: float) -> str:
    """Seconds as text: "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} days {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def plural(count: int, noun: str, ending: str = "s") -> str:
    """A number of things: "1 shard", "2,000 shards"."""
    return f"{count:,} {noun}{ending if count != 1 else ''}"


def _first_samples(shards: Sequence[str], tally: Tally) -> list[RawSample]:
    samples: list[RawSample] = []
    for url in shards[:SHARDS_READ]:
        one = Tally()
        reader = read_samples(url, one, reject_for_embedding)
        samples += islice(reader, MEASURED - len(samples))
        reader.close()  # type: ignore[attr-defined]  # a generator: its tally is complete once it is closed
        tally.add(one)
        if len(samples) == MEASURED:
            break
    return samples


def _total_bytes(shards: Sequence[str]) -> int:
    local = [url for url in shards if not urls.is_remote(url)]
    remote = [url for url in shards if urls.is_remote(url)]
    sized = remote[:: max(1, len(remote) // SIZED)]
    with ThreadPoolExecutor(8) as pool:
        far = sum(pool.map(urls.size, sized)) * len(remote) / max(len(sized), 1)
    return round(sum(map(urls.size, local)) + far)
