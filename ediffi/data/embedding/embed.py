"""Embeddings of whole data sets, once: shards of pictures and captions in, shards to train on out.

A shard is the unit of work and of restart. Its embeddings depend on nothing but the shard, so that any number of
processes, killed and started again, write the same bytes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from ediffi.data.embedding.encode import encode_captions, encode_pictures, for_encoder
from ediffi.data.embedding.ledger import Ledger
from ediffi.data.shards import PICTURES, Shard, caption_of, metadata_of, picture_of, write_tar
from ediffi.data.tar import Raw, Tally, read_samples
from ediffi.io import urls
from ediffi.registry.encoders import reads_text
from ediffi.registry.types import Encoder, TextEncoder

READERS = 4
PAUSE = 0.5
"""Seconds before looking again whether another process has finished, or died."""


class UnreadableShardError(ValueError):
    """A shard that cannot be read, or is not the one that its index means; the message names it."""


@dataclass(frozen=True)
class Embedder:
    """Samples to samples with embeddings.

    Args:
        encoders: by source; those that can `tokenize` read captions, the others see pictures.
        batch_tokens: padded tokens a batch of captions.
        batch_pictures: pictures a batch.
        dtype: of the embeddings.

    Raises:
        ValueError: there are no encoders, or a number is below 1.
    """

    encoders: Mapping[str, Encoder]
    batch_tokens: int = 8192
    batch_pictures: int = 64
    dtype: torch.dtype = torch.bfloat16
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS), repr=False)

    def __post_init__(self) -> None:
        if not self.encoders:
            raise ValueError("there are no encoders to embed with")
        for name in ("batch_tokens", "batch_pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def rows(self, samples: Sequence[Raw], tally: Tally) -> Iterator[tuple[Raw, dict[str, Tensor]]]:
        """Samples with their embeddings, in order; those whose picture is broken are dropped, and counted."""
        seen = self._pictures(samples)
        kept = [(raw, tensors) for raw, tensors in zip(samples, seen, strict=True) if tensors is not None]
        if broken := len(samples) - len(kept):
            tally.dropped["picture broken"] += broken
            tally.samples -= broken
        captions = [caption_of(raw) for raw, _ in kept]
        for source, encoder in self.encoders.items():
            if reads_text(encoder):
                reader = cast(TextEncoder, encoder)
                found = encode_captions(source, reader, captions, self.batch_tokens, self.dtype)
                for (_, tensors), more in zip(kept, found, strict=True):
                    tensors.update(more)
        yield from kept

    def _pictures(self, samples: Sequence[Raw]) -> Iterator[dict[str, Tensor] | None]:
        """What is seen in each picture; None for a broken one. Every picture is decoded, even if nobody looks."""
        watching = {source: encoder for source, encoder in self.encoders.items() if not reads_text(encoder)}

        def prepared(raw: Raw) -> dict[str, Tensor] | None:
            try:
                picture = picture_of(raw)
            except ValueError:
                return None
            return {source: for_encoder(picture, encoder) for source, encoder in watching.items()}

        for first in range(0, len(samples), self.batch_pictures):
            pictures = list(self._pool.map(prepared, samples[first : first + self.batch_pictures]))
            found: list[dict[str, Tensor] | None] = [None if picture is None else {} for picture in pictures]
            good = [row for row, picture in enumerate(pictures) if picture is not None]
            for source, encoder in watching.items() if good else ():
                images = [cast(dict[str, Tensor], pictures[row])[source] for row in good]
                for row, tensors in zip(good, encode_pictures(source, encoder, images, self.dtype), strict=True):
                    cast(dict[str, Tensor], found[row]).update(tensors)
            yield from found


def lacks_for_embedding(raw: Raw) -> str | None:
    """What a sample lacks to be embedded; img2dataset's `status` counts, an empty caption does not."""
    if not any(suffix in raw for suffix in PICTURES):
        return "no picture"
    try:
        status = metadata_of(raw).get("status", "success")
        if status != "success":
            return f"status {str(status)[:40]}"
    except ValueError:
        return "metadata broken"
    try:
        return None if caption_of(raw).strip() else "no caption"
    except ValueError:
        return "caption not UTF-8"


def read_source(place: str, tally: Tally, known: Shard | None = None) -> list[Raw]:
    """The samples of a shard that can be embedded.

    Args:
        place: a file or URL.
        tally: counts what is read and dropped.
        known: the shard as an index beside it tells it, to be compared.

    Raises:
        UnreadableShardError: it cannot be read, or is another one.
    """
    try:
        samples = list(read_samples(place, tally, lacks_for_embedding))
    except OSError as error:
        raise UnreadableShardError(urls.describe_error(place, error)) from error
    if known is not None and known.sha256 and tally.sha256 != known.sha256:
        raise UnreadableShardError(f"{urls.redact(place)} does not have the sha256 that its index says")
    return samples


def embed_shard(place: str, path: Path, embedder: Embedder, known: Shard | None = None) -> dict[str, Any]:
    """Write the shard of one source shard, and return what is to be recorded of it.

    Raises:
        UnreadableShardError: the source cannot be read.
        OSError: the shard cannot be written.
        ValueError: the device has not enough memory.
    """
    tally = Tally()
    samples = read_source(place, tally, known)
    try:
        with torch.inference_mode():
            written = write_tar(path, (finished(raw, tensors) for raw, tensors in embedder.rows(samples, tally)))
    except torch.OutOfMemoryError as error:
        advice = f"lower batch_tokens ({embedder.batch_tokens}) or batch_pictures ({embedder.batch_pictures})"
        raise ValueError(f"not enough memory on the device; {advice}: {str(error).splitlines()[0]}") from None
    return {**written, "source": urls.redact(place), **tally.told()}


def finished(raw: Raw, tensors: Mapping[str, Tensor]) -> Raw:
    """A sample as training reads it: picture and metadata as they came, the caption, and its embeddings."""
    picture = next(suffix for suffix in PICTURES if suffix in raw)
    return {
        "__key__": raw["__key__"],
        picture: raw[picture],
        "txt": caption_of(raw).encode(),
        "json": raw.get("json", b"{}"),
        "safetensors": safetensors.torch.save(dict(tensors)),
    }


def work(
    ledger: Ledger,
    shards: Sequence[str],
    embedder: Embedder,
    known: Mapping[str, Shard],
    first: int = 0,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Embed shards until all are recorded, by this process or another.

    Args:
        ledger: of the output.
        shards: the sources, in order.
        embedder: does it.
        known: shards whose hash an index tells, by place.
        first: the shard to begin with, another one for each process.
        watch: called whenever something may have been finished.

    Raises:
        OSError: a shard cannot be written.
        ValueError: some could not be read; the others are done.
    """
    failed: dict[int, str] = {}
    while todo := [number for number in ledger.pending() if number not in failed]:
        turned = [n for n in todo if n >= first] + [n for n in todo if n < first]
        done_here = [_one(ledger, n, shards[n], embedder, known, failed, watch) for n in turned]
        if not any(done_here):
            watch()
            time.sleep(PAUSE)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(shards)} shards could not be read, the others are done, and the same command goes "
            f"on; the first: {next(iter(failed.values()))}"
        )


def _one(
    ledger: Ledger,
    number: int,
    place: str,
    embedder: Embedder,
    known: Mapping[str, Shard],
    failed: dict[int, str],
    watch: Callable[[], None],
) -> bool:
    """Do a shard, if nobody else does; whether it was done here."""
    with ledger.taken(number) as mine:
        if not mine:
            return False
        try:
            told = embed_shard(place, ledger.folder / ledger.name(number), embedder, known.get(place))
            ledger.record(number, told)
        except UnreadableShardError as error:
            failed[number] = str(error)
    watch()
    return True
