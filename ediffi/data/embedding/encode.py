"""Captions and images of a shard to embeddings, in batches of nearly equal length that change no value.

Padding a batch of captions to its longest one costs as much as encoding words; captions of equal length need none. So
the captions of a shard are sorted by their number of tokens and cut into batches of about as many tokens each; equal
captions are encoded once.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import cast

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.data.shards import caption_of, embedding_tensors, embeddings_of, image_of
from ediffi.data.tar import RawSample, Tally
from ediffi.io.images import WHITE, Color, square_to_tensor
from ediffi.registry.encoders import reads_text
from ediffi.registry.types import Embedding, Encoder, TextEncoder

READERS = 4
TOKENIZED = 1024  # captions tokenized at a time, to learn their lengths
SIDE = 224  # side of the images for an encoder without a `size`

Tensors = dict[str, Tensor]  # embeddings of a sample, as `embedding_tensors` makes them


@dataclass(frozen=True)
class Embedder:
    """Adds the embeddings of encoders, by source, to samples; ValueError without encoders, or for a number below 1.

    Of the embeddings that samples have already, those of the sources `kept` stay.
    """

    encoders: Mapping[str, Encoder]
    batch_tokens: int = 8192
    batch_images: int = 64
    background: Color = WHITE
    kept: frozenset[str] = frozenset()
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS), repr=False)
    _device: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        if not self.encoders:
            raise ValueError("there are no encoders to embed with")
        for name in ("batch_tokens", "batch_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def rows(self, samples: Sequence[RawSample], tally: Tally) -> list[tuple[RawSample, Tensors]]:
        """Samples with their embeddings, in order; those with a broken image are dropped, and counted. One thread at a
        time has the encoders; others may read and write meanwhile."""
        with self._device, torch.inference_mode():
            return self._rows(samples, tally)

    def _rows(self, samples: Sequence[RawSample], tally: Tally) -> list[tuple[RawSample, Tensors]]:
        embedded = self._embed_images(samples)
        kept = [(raw, tensors) for raw, tensors in zip(samples, embedded, strict=True) if tensors is not None]
        if broken := len(samples) - len(kept):
            tally.dropped["image broken"] += broken
            tally.samples -= broken
        for raw, tensors in kept:
            tensors.update(self._present(raw))
        captions = [caption_of(raw) for raw, _ in kept]
        for source, encoder in self.encoders.items():
            if reads_text(encoder):
                found = encode_captions(source, cast(TextEncoder, encoder), captions, self.batch_tokens)
                for (_, tensors), more in zip(kept, found, strict=True):
                    tensors.update(more)
        return kept

    def _present(self, raw: RawSample) -> Tensors:
        """The embeddings that a sample has, and that stay."""
        found = embeddings_of(raw) if self.kept and "safetensors" in raw else {}
        return {name: tensor for name, tensor in found.items() if name.rpartition(".")[0] in self.kept}

    def _embed_images(self, samples: Sequence[RawSample]) -> Iterator[Tensors | None]:
        """The image embeddings of each sample, or None if its image is broken: all images are decoded to know that."""
        encoders = {source: encoder for source, encoder in self.encoders.items() if not reads_text(encoder)}

        def prepare(raw: RawSample) -> Tensors | None:
            try:
                image = image_of(raw, self.background)
            except ValueError:
                return None
            return {source: prepare_image(image, encoder) for source, encoder in encoders.items()}

        size = self.batch_images
        batches = (self._pool.map(prepare, samples[first : first + size]) for first in range(0, len(samples), size))
        ahead = next(batches, None)
        while ahead is not None:
            prepared, ahead = list(ahead), next(batches, None)  # the next images are decoded while these are encoded
            good = [images for images in prepared if images is not None]
            found: list[Tensors] = [{} for _ in good]
            for source, encoder in encoders.items() if good else ():
                embedding = _stored(encoder(torch.stack([images[source] for images in good])))
                for row, tensors in enumerate(found):
                    tensors.update(embedding_tensors({source: embedding}, row))
            rows = iter(found)
            yield from (None if images is None else next(rows) for images in prepared)


def encode_captions(source: str, encoder: TextEncoder, captions: Sequence[str], batch_tokens: int) -> list[Tensors]:
    """The unpadded embeddings of captions, in their order; `batch_tokens` counts padded tokens of a batch."""
    unique = list(dict.fromkeys(captions))
    found: dict[str, Tensors] = {}
    for rows in batches(lengths(encoder, unique), batch_tokens):
        texts = [unique[row] for row in rows]
        embedding = _stored(encoder(texts))
        found |= {text: embedding_tensors({source: embedding}, row) for row, text in enumerate(texts)}
    return [found[caption] for caption in captions]


def prepare_image(image: Image.Image, encoder: Encoder) -> Float[Tensor, "3 s s"]:
    """An RGB image as an image encoder reads it: in [-1, 1], a square of its `size`, as CLIP prepares images."""
    return square_to_tensor(image, int(getattr(encoder, "size", SIDE)))


def lengths(encoder: TextEncoder, texts: Sequence[str]) -> list[int]:
    """The number of tokens of each text."""
    found: list[int] = []
    for first in range(0, len(texts), TOKENIZED):
        _, mask = encoder.tokenize(texts[first : first + TOKENIZED])
        found += mask.sum(1).tolist()
    return found


def batches(sizes: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions of all texts in batches, the longest first: at most `batch_tokens` padded tokens each, but one text."""
    batch: list[int] = []
    # The longest first: a batch that does not fit into memory fails at the beginning of a shard, not at its end.
    for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
        if batch and (len(batch) + 1) * sizes[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _stored(embedding: Embedding) -> Embedding:
    """The embedding on the CPU, rounded as it will be stored: bfloat16 has the range of float32, which T5 needs."""
    return embedding.apply(lambda t: (t.bfloat16() if t.is_floating_point() else t).cpu())
