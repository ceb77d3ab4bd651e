"""WebDataset shards, in and out.

A sample is a picture (`.png`, `.jpg` or `.webp`), a caption (`.txt`), what is known about it (`.json`) and the
embeddings of its caption and picture (`.safetensors`: `<source>.tokens` [n, d], unpadded, and `<source>.pooled` [p]).
Nothing else in a shard is decoded, and nothing is unpickled. `index.json` beside the shards tells their sample counts
and hashes.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import webdataset
from PIL import Image
from torch import Tensor
from webdataset import tariterators

from registry.types import Embedding

PICTURES = ("png", "jpg", "jpeg", "webp")
INDEX = "index.json"


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


@dataclass(frozen=True)
class Shard:
    """A shard as the index tells it."""

    path: Path
    samples: int
    sha256: str


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
        _write_tar(path, chunk)
        shards.append({"file": path.name, "samples": len(chunk), "sha256": sha256(path)})
    _replace(index, json.dumps({"format": "ediffi-shards-1", **description, "shards": shards}, indent=1).encode())
    return index


def read_index(folder: Path) -> list[Shard]:
    """The shards of a folder.

    Raises:
        FileNotFoundError: the folder has no index, or a shard of it is missing.
        ValueError: the index is not one of ours, or lists no samples.
    """
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"no {INDEX} in {folder}: write the shards first (ediffi toybox shards)")
    try:
        content = json.loads(index.read_text())
        shards = [Shard(folder / s["file"], int(s["samples"]), s["sha256"]) for s in content["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is not an index of shards: {error}") from None
    for shard in shards:
        if not shard.path.is_file():
            raise FileNotFoundError(f"{index} lists {shard.path.name}, which is not there")
    if not sum(shard.samples for shard in shards):
        raise ValueError(f"{index} lists no samples")
    return shards


def read_shard(path: Path) -> Iterator[dict[str, Any]]:
    """The undecoded samples of a shard, in order: bytes by suffix, and the `__key__`; incomplete ones are left out."""
    with path.open("rb") as stream:
        members = tariterators.tar_file_expander([{"url": str(path), "stream": stream}], handler=_stop)
        for raw in tariterators.group_by_keys(members, handler=_stop):
            if "txt" in raw and "safetensors" in raw and any(suffix in raw for suffix in PICTURES):
                yield raw


def _stop(error: Exception) -> bool:
    """webdataset's handler: a broken tar ends where it breaks, and the count of its samples will tell."""
    if isinstance(error, tarfile.TarError):
        return False
    raise error


def decode(raw: Mapping[str, Any]) -> Sample:
    """Decode the whitelisted members of a sample."""
    picture = next(raw[suffix] for suffix in PICTURES if suffix in raw)
    return Sample(
        key=raw["__key__"],
        image=Image.open(io.BytesIO(picture)).convert("RGB"),
        caption=raw["txt"].decode(),
        embeddings=safetensors.torch.load(raw["safetensors"]),
        metadata=json.loads(raw.get("json", b"{}")),
    )


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tar(path: Path, samples: list[Sample]) -> None:
    beside = path.with_suffix(".tar.tmp")
    with webdataset.TarWriter(str(beside), encoder=False, mtime=0.0) as tar:
        for sample in samples:
            picture = io.BytesIO()
            sample.image.save(picture, "png")
            tar.write(
                {
                    "__key__": sample.key,
                    "png": picture.getvalue(),
                    "txt": sample.caption.encode(),
                    "json": json.dumps(sample.metadata).encode(),
                    "safetensors": safetensors.torch.save(dict(sample.embeddings)),
                }
            )
    os.replace(beside, path)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(content)
    os.replace(beside, path)
