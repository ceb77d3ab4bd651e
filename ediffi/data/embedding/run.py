"""An embedding run: shards of images and captions in, shards to train on out.

A shard is the unit of work and of resuming. Its embeddings depend on nothing but the shard and the encoders, so any
number of processes, killed and started again, write the same bytes.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ediffi.data.embedding import captions
from ediffi.data.embedding.encode import Embedder
from ediffi.data.embedding.estimate import EmbeddingEstimate, estimate
from ediffi.data.embedding.identity import build, identity
from ediffi.data.embedding.ledger import Ledger
from ediffi.data.index import INDEX, Shard, embedded_encoders, indexed_shards
from ediffi.data.shards import caption_of, reject_for_embedding, write_tar
from ediffi.data.tar import IMAGES, RawSample, Tally, read_samples
from ediffi.hub.config import Part
from ediffi.io import urls
from ediffi.io.devices import warn_if_emulated
from ediffi.io.distributed import DistributedContext
from ediffi.io.images import color
from ediffi.io.progress import Progress
from ediffi.registry.encoders import reads_text

DTYPE = "bfloat16"
PAUSE = 0.5  # seconds before looking again whether another process has finished, or died

logger = logging.getLogger(__name__)


class UnreadableShardError(ValueError):
    """A shard that cannot be read, or differs from its index; the message names it."""


@dataclass(frozen=True)
class EmbedRun:
    """What to embed, with which encoders by source, into which folder; a URL, if a cluster does it."""

    shards: Sequence[str]
    folder: Path | str
    parts: Mapping[str, Part]
    batch_tokens: int = 8192
    batch_images: int = 64
    background: str = "white"  # of transparent images, for image encoders
    allow_unknown: bool = False  # begin with an encoder that does not read the captions

    def __call__(self, context: DistributedContext, processes: int | None = None, dry_run: bool = False) -> None:
        """Do the share of one process; rank 0 logs the estimate, shows the progress and writes the index. `processes`
        (by default `context.world_size`) is the number that the estimate of a `dry_run` is for. ValueError: an encoder
        or the folder does not fit, an encoder does not read the captions, there is nothing to embed, or too little
        space."""
        if urls.is_remote(str(self.folder)):
            raise ValueError(f"{self.folder} is a URL, to which only --engine ray writes")
        self.check_shards()
        embedder = self.embedder(context.device)
        if dry_run:
            if context.rank == 0:
                self.tell(estimate(self.shards, embedder, processes or context.world_size))
            return
        ledger = Ledger(self.folder, len(self.shards), self.request(embedder))
        samples = self._estimate(ledger, embedder, context) if context.rank == 0 else 0
        context.gather(None)  # no process begins before rank 0 knows that the output fits
        if ledger.is_complete:
            if context.rank == 0:
                self.finish(ledger)
            return
        ledger.begin()
        first = context.rank * len(self.shards) // context.world_size
        known = indexed_shards(self.shards)
        if context.rank:
            work(ledger, self.shards, embedder, known, first)
            return
        with progress(ledger, samples) as update:
            work(ledger, self.shards, embedder, known, first, update)
        self.finish(ledger)

    def check_shards(self) -> None:
        """FileNotFoundError if a local shard is missing."""
        if missing := [url for url in self.shards if not urls.is_remote(url) and not Path(url).is_file()]:
            count = f"{len(missing)} of {len(self.shards):,} shards"
            raise FileNotFoundError(f"{count} do not exist, the first is {missing[0]}")

    def embedder(self, device: str) -> Embedder:
        """The encoders of the run on a device; embeddings of other sources, which shards have, are kept."""
        kept = frozenset(source for source in embedded_encoders(self.shards) if source not in self.parts)
        encoders = build(self.parts, device)
        if low := [source for source, encoder in encoders.items() if getattr(encoder, "dtype", None) == torch.bfloat16]:
            warn_if_emulated(torch.device(device), f"the argument dtype=float32 of {', '.join(low)}")
        return Embedder(encoders, self.batch_tokens, self.batch_images, color(self.background), kept)

    def request(self, embedder: Embedder) -> dict[str, Any]:
        """What the folder is for: the same sources, encoders and batches make the same bytes."""
        listed, encoders = "\n".join(map(urls.redact, self.shards)), embedder.encoders
        kept = {source: known for source, known in embedded_encoders(self.shards).items() if source in embedder.kept}
        return {
            "sources": {"count": len(self.shards), "sha256": hashlib.sha256(listed.encode()).hexdigest()},
            "encoders": {source: identity(self.parts[source], encoder) for source, encoder in encoders.items()},
            "dtype": DTYPE,
            "batch_tokens": self.batch_tokens,
            "batch_pictures": self.batch_images,
            **({"kept": kept} if kept else {}),
            **({} if all(map(reads_text, encoders.values())) else {"background": self.background}),
        }

    def tell(self, expected: EmbeddingEstimate) -> None:
        """Log what to expect."""
        logger.info("\n".join(expected.lines(self.folder)))

    def check(self, expected: EmbeddingEstimate) -> None:
        """Log what to expect. ValueError: too little space, or an encoder does not read the captions."""
        self.tell(expected)
        expected.check_space(self.folder)
        if not self.allow_unknown:
            captions.check(expected.readings)

    def _estimate(self, ledger: Ledger, embedder: Embedder, context: DistributedContext) -> int:
        """Log what to expect, and return the number of samples."""
        pending = [self.shards[number] for number in ledger.pending()]
        if not pending:
            return 0
        if (idle := context.world_size - len(self.shards)) > 0:
            logger.warning("%d shards for %d processes: %d will be idle", len(self.shards), context.world_size, idle)
        expected = estimate(pending, embedder, context.world_size)
        self.check(expected)
        return expected.samples

    def finish(self, ledger: Ledger) -> None:
        """Write the index of all shards, and log what was done. ValueError: no sample could be embedded."""
        if ledger.is_complete:  # or another run of the same command was first
            logger.info("complete already: %s", ledger.place(INDEX))
            return
        losses: Counter[str] = Counter()
        for record in ledger.records().values():
            losses.update({**record.get("dropped", {}), **record.get("skipped", {})})
        listed = ", ".join(f"{count} {reason}" for reason, count in losses.most_common())
        total = sum(record["samples"] for record in ledger.records().values())
        if not total:
            raise ValueError(f"no sample of {len(self.shards)} shards could be embedded: {listed}")
        known = {key: ledger.request[key] for key in ("background",) if key in ledger.request}
        of = {**ledger.request.get("kept", {}), **ledger.request["encoders"]}
        index = ledger.finish({"dataset": "embedded", "dtype": DTYPE, "encoders": of, **known})
        captions.warn(captions.recorded([ledger.place(ledger.name(number)) for number in range(ledger.count)]))
        logger.info(f"{total:,} samples in {len(self.shards):,} shards; left out: {listed or 'nothing'}\n{index}")


def work(
    ledger: Ledger, shards: Sequence[str], embedder: Embedder, known: Mapping[str, Shard],
    first: int = 0, update: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Embed shards until all are recorded, by this process or another; each process begins with another shard, `first`.
    `known` are shards whose hash an index lists; `update` is called whenever a shard may have been finished.
    ValueError: some shards could not be read; the others are done."""
    failed: dict[int, str] = {}

    while todo := [number for number in ledger.pending() if number not in failed]:
        idle = True
        for number in sorted(todo, key=lambda number: number < first):  # from `first` on
            with ledger.taken(number) as mine:
                if not mine:  # another process has it
                    continue
                url, idle = shards[number], False
                try:
                    path = ledger.place(ledger.name(number))
                    ledger.record(number, embed_shard(url, path, embedder, known.get(url)))
                except UnreadableShardError as error:
                    failed[number] = str(error)
            update()
        if idle:
            update()
            time.sleep(PAUSE)
    report(failed, len(shards))


def report(failed: Mapping[int, str], shards: int) -> None:
    """ValueError if shards, by number, could not be read."""
    if failed:
        count = f"{len(failed)} of {shards} shards could not be read, the others are done"
        raise ValueError(f"{count}; the same command retries them; the first: {next(iter(failed.values()))}")


def embed_shard(url: str, path: Path | str, embedder: Embedder, known: Shard | None = None) -> dict[str, Any]:
    """Write the shard of one source shard, and return its entry for the index. ValueError: the device has not enough
    memory."""
    tally = Tally()
    samples = read_source(url, tally, known)
    try:
        rows = embedder.rows(samples, tally)
    except torch.OutOfMemoryError as error:
        advice = f"lower batch_tokens ({embedder.batch_tokens}) or batch_pictures ({embedder.batch_images})"
        raise ValueError(f"not enough memory on the device; {advice}: {str(error).splitlines()[0]}") from None
    written = write_tar(path, (_embedded(raw, tensors) for raw, tensors in rows))
    read = captions.read_captions(embedder.encoders, [caption_of(raw) for raw in samples])
    records = {source: reading.record() for source, reading in read.items()}
    return {**written, "source": urls.redact(url), "captions": records, **tally.losses()}


def read_source(url: str, tally: Tally, known: Shard | None = None) -> list[RawSample]:
    """The samples of a shard that can be embedded; UnreadableShardError if it differs from its index (`known`)."""
    try:
        samples = list(read_samples(url, tally, reject_for_embedding))
    except OSError as error:
        raise UnreadableShardError(urls.describe_error(url, error)) from error
    if known is not None and known.sha256 and tally.sha256 != known.sha256:
        raise UnreadableShardError(f"{urls.redact(url)} has another sha256 than its index says")
    return samples


def _embedded(raw: RawSample, tensors: Mapping[str, Tensor]) -> RawSample:
    """A sample to train on: image and metadata as in the source, the caption, and its embeddings."""
    image = next(suffix for suffix in IMAGES if suffix in raw)
    return {
        "__key__": raw["__key__"],
        image: raw[image],
        "txt": caption_of(raw).encode(),
        "json": raw.get("json", b"{}"),
        "safetensors": safetensors.torch.save(dict(tensors)),
    }


@contextmanager
def progress(ledger: Ledger, expected: int) -> Iterator[Callable[[], None]]:
    """A progress bar over the samples of all processes; yields a function that shows what is recorded."""

    def done() -> int:
        return sum(record["samples"] for record in ledger.records().values())

    with Progress(total=expected + done(), initial=done(), unit="sample", desc="embed") as bar:

        def update() -> None:
            if (now := done()) > bar.n:
                bar.total = max(bar.total, now)
                bar.update(now - bar.n)

        yield update
