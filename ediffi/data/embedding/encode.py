"""Captions and pictures of a shard to embeddings: batches of nearly equal length, whose values are those of each alone.

Padding a batch of captions to its longest one costs as much as the words do; captions of equal length cost nothing
extra. So the captions of a shard are sorted by their number of tokens and cut into batches of about as many tokens
each; equal captions are encoded once.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.data.shards import embedding_tensors
from ediffi.io.images import square
from ediffi.registry.types import Embedding, Encoder, TextEncoder

TOKENIZED = 1024
"""Captions tokenized at a time, to learn their lengths."""
SIDE = 224
"""Side of the pictures for an encoder that does not say its `size`."""


def encode_captions(
    source: str, encoder: TextEncoder, captions: Sequence[str], batch_tokens: int, dtype: torch.dtype = torch.bfloat16
) -> list[dict[str, Tensor]]:
    """The unpadded embeddings of captions, in their order, as `embedding_tensors` of each.

    Args:
        source: what the embeddings are called.
        encoder: of texts.
        captions: any number.
        batch_tokens: padded tokens a batch, at most, if that is enough for one caption.
        dtype: of the result.
    """
    unique = list(dict.fromkeys(captions))
    found: dict[str, dict[str, Tensor]] = {}
    for rows in batches(lengths(encoder, unique), batch_tokens):
        texts = [unique[row] for row in rows]
        embedding = _stored(encoder(texts), dtype)
        for row, text in enumerate(texts):
            found[text] = embedding_tensors({source: embedding}, row, dtype)
    return [found[caption] for caption in captions]


def encode_pictures(
    source: str, encoder: Encoder, images: Sequence[Float[Tensor, "3 s s"]], dtype: torch.dtype = torch.bfloat16
) -> list[dict[str, Tensor]]:
    """The embeddings of pictures that `for_encoder` has prepared, in one batch, as `embedding_tensors` of each."""
    embedding = _stored(encoder(torch.stack(list(images))), dtype)
    return [embedding_tensors({source: embedding}, row, dtype) for row in range(len(images))]


def for_encoder(image: Image.Image, encoder: Encoder) -> Float[Tensor, "3 s s"]:
    """An RGB picture as an encoder of pictures takes it: in [-1, 1], a square of its `size`, as CLIP prepares one."""
    pixels = np.array(square(image, int(getattr(encoder, "size", SIDE))))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


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
    for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
        if batch and (len(batch) + 1) * sizes[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded_bytes(encoders: Mapping[str, Encoder], rows: Sequence[Mapping[str, Tensor]]) -> int:
    """What embeddings would take in float16, padded to the longest that their encoder reads (for comparison)."""
    total = 0
    for name, tensor in (item for row in rows for item in row.items()):
        source, _, kind = name.rpartition(".")
        longest = getattr(encoders[source], "max_tokens", len(tensor))
        total += 2 * (longest * tensor.shape[1] if kind == "tokens" else len(tensor))
    return total


def _stored(embedding: Embedding, dtype: torch.dtype) -> Embedding:
    """The embedding on the processor, rounded as it will be stored."""
    return embedding.apply(lambda t: (t.to(dtype) if t.is_floating_point() else t).cpu())
