"""WebDataset shards, in and out.

A sample is a picture (`.png`, `.jpg`, `.jpeg` or `.webp`), a caption (`.txt`), what is known about it (`.json`) and the
embeddings of its caption and picture (`.safetensors`: `<source>.tokens` [n, d], unpadded, and `<source>.pooled` [p]).
Nothing else in a shard is decoded, and nothing is unpickled. `index.json` beside the shards tells their sample counts
and hashes, and whose embeddings they are.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
import webdataset
from PIL import Image, ImageOps
from torch import Tensor

from ediffi.data.index import INDEX, Index, Shard, read_index, write_index
from ediffi.data.tar import PICTURES, Raw, Tally, read_samples
from ediffi.io import images
from ediffi.registry.types import Embedding

__all__ = [
    "INDEX",
    "PICTURES",
    "Index",
    "Sample",
    "Shard",
    "caption_of",
    "collate_embeddings",
    "decode",
    "embedding_tensors",
    "embeddings_of",
    "metadata_of",
    "picture_of",
    "read_index",
    "read_shard",
    "whole_shard",
    "write_shards",
    "write_tar",
]


@dataclass(frozen=True)
class Sample:
    """One training sample.

    Attributes:
        key: unique in its data set.
        image: RGB picture.
        caption: its text.
        embeddings: unpadded tensors `<source>.tokens` [n, d] and `<source>.pooled` [p].
        metadata: plain JSON values.
    """

    key: str
    image: Image.Image
    caption: str
    embeddings: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


def embedding_tensors(
    sources: Mapping[str, Embedding], row: int, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """The unpadded tensors of sample `row` of an encoded batch, as a shard stores them."""
    tensors = {}
    for name, embedding in sources.items():
        tensors[f"{name}.tokens"] = embedding.tokens[row][embedding.mask[row]].to(dtype).contiguous()
        if embedding.pooled is not None:
            tensors[f"{name}.pooled"] = embedding.pooled[row].to(dtype).contiguous()
    return tensors


def collate_embeddings(samples: list[Mapping[str, Tensor]]) -> dict[str, Embedding]:
    """The inverse for a batch, padded to its longest: float32 embeddings by source."""
    sources = {}
    for name in sorted({key.rpartition(".")[0] for key in samples[0]}):  # safetensors gives no order
        parts = []
        for tensors in samples:
            tokens, pooled = tensors[f"{name}.tokens"].float(), tensors.get(f"{name}.pooled")
            mask = torch.ones(1, len(tokens), dtype=torch.bool)
            parts.append(Embedding(tokens[None], mask, None if pooled is None else pooled.float()[None]))
        sources[name] = Embedding.cat(parts)
    return sources


def write_shards(
    folder: Path, samples: Iterator[Sample], samples_per_shard: int, description: Mapping[str, Any]
) -> Path:
    """Write samples as `00000.tar`, `00001.tar`, ... and the index, each beside its place and then renamed into it.

    Args:
        folder: made if it is missing.
        samples: consumed once.
        samples_per_shard: the last shard may hold fewer.
        description: plain JSON values kept in the index (encoders, picture size, seed).

    Returns:
        The path of the index.

    Raises:
        FileExistsError: the folder has an index already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    if index.exists():
        raise FileExistsError(f"{index} exists: these shards are complete; choose another folder or remove it")
    shards: list[dict[str, Any]] = []
    while chunk := list(islice(samples, samples_per_shard)):
        path = folder / f"{len(shards):05d}.tar"
        shards.append({"file": path.name, **write_tar(path, map(_encoded, chunk))})
    return write_index(index, shards, description)


def write_tar(path: Path, samples: Iterable[Raw]) -> dict[str, Any]:
    """Write undecoded samples as a shard, beside its place and then into it; equal samples make equal bytes.

    Returns:
        "samples", "bytes" and "sha256" of the shard.

    Raises:
        OSError: it cannot be written; nothing is left beside its place.
    """
    beside = path.with_name(path.name + ".tmp")
    count = 0
    try:
        with beside.open("wb") as file:
            written = _Written(file)
            # Whole seconds: a float would give every member another header, with its fraction.
            with webdataset.TarWriter(written, encoder=False, mtime=0) as tar:
                for sample in samples:
                    tar.write(sample)
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, f"{error.strerror}, while writing", str(path)) from error
    return {"samples": count, "bytes": written.bytes, "sha256": written.digest.hexdigest()}


def read_shard(place: Path | str, tally: Tally | None = None) -> Iterator[Raw]:
    """The undecoded samples of a shard, in order: bytes by suffix, and the `__key__`; incomplete ones are left out.

    Args:
        place: a file or URL.
        tally: counts what is read and what is left out.

    Raises:
        OSError: the place cannot be read.
    """
    return read_samples(str(place), Tally() if tally is None else tally, _lacks)


def whole_shard(shard: Shard) -> list[Raw]:
    """All undecoded samples of a shard, which is the one that its index means.

    Raises:
        OSError: it cannot be read.
        ValueError: it has another count of samples, or another hash.
    """
    tally = Tally()
    raw = list(read_shard(shard.place, tally))
    if len(raw) != shard.samples:
        raise ValueError(
            f"{shard.place} has {len(raw)} complete samples, its index says {shard.samples}: write it again"
        )
    if shard.sha256 and tally.sha256 != shard.sha256:
        raise ValueError(
            f"{shard.place} has the sha256 {tally.sha256[:12]}..., its index says {shard.sha256[:12]}...: it was "
            "changed or damaged; write it again"
        )
    return raw


def decode(raw: Mapping[str, Any]) -> Sample:
    """Decode a sample.

    Raises:
        ValueError: a member is not what its suffix says; the message names the sample.
    """
    return Sample(raw["__key__"], picture_of(raw), caption_of(raw), embeddings_of(raw), metadata_of(raw))


def picture_of(raw: Mapping[str, Any]) -> Image.Image:
    """The RGB picture of a sample, turned as its EXIF says; raises as `decode`, and for too many pixels."""
    data = next(raw[suffix] for suffix in PICTURES if suffix in raw)
    image = images.open_image(data, f"the picture of sample {raw['__key__']!r}")
    ImageOps.exif_transpose(image, in_place=True)
    return images.rgb(image)


def caption_of(raw: Mapping[str, Any]) -> str:
    """The caption of a sample: its text, or what its metadata says; empty if there is none. Raises as `decode`."""
    if "txt" not in raw:
        caption = metadata_of(raw).get("caption")
        return caption if isinstance(caption, str) else ""
    try:
        return raw["txt"].decode()
    except UnicodeDecodeError:
        raise ValueError(f"the caption of sample {raw['__key__']!r} is not UTF-8") from None


def embeddings_of(raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """The embeddings of a sample, by "source.tokens" and "source.pooled"; raises as `decode`."""
    try:
        return safetensors.torch.load(raw["safetensors"])
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"the embeddings of sample {raw['__key__']!r} are broken: {error}") from None


def metadata_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a sample, plain JSON; raises as `decode`."""
    try:
        content = json.loads(raw.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the metadata of sample {raw['__key__']!r} are not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the metadata of sample {raw['__key__']!r} are not a JSON object")
    return content


def _lacks(raw: Raw) -> str | None:
    """What a sample lacks to be trained on."""
    if not any(suffix in raw for suffix in PICTURES):
        return "no picture"
    if "txt" not in raw:
        return "no caption"
    return None if "safetensors" in raw else "no embeddings"


def _encoded(sample: Sample) -> Raw:
    picture = io.BytesIO()
    sample.image.save(picture, "png")
    return {
        "__key__": sample.key,
        "png": picture.getvalue(),
        "txt": sample.caption.encode(),
        "json": json.dumps(sample.metadata).encode(),
        "safetensors": safetensors.torch.save(dict(sample.embeddings)),
    }


class _Written:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)
