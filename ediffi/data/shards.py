"""WebDataset shards, read and written.

A sample is an image (`.png`, `.jpg`, `.jpeg` or `.webp`), a caption (`.txt`), metadata (`.json`) and the embeddings of
its caption and image (`.safetensors`: `<source>.tokens` [n, d], unpadded, and `<source>.pooled` [p]). Nothing else in a
shard is decoded, and nothing is unpickled. `index.json` beside the shards holds their sample counts and hashes, and
which encoders made the embeddings.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import webdataset
from PIL import Image
from torch import Tensor

from ediffi.data.image_facts import ImageFacts, image_bytes, side_of
from ediffi.data.index import INDEX, Shard, write_index
from ediffi.data.tar import IMAGES, RawSample, Tally, read_samples
from ediffi.diffusion.weights import extremes
from ediffi.io import files, images, plain_json, urls
from ediffi.io.image_input import read_image
from ediffi.registry.types import Embedding

MAX_CAPTION = 100_000
"""Longest caption in characters. Encoders read some hundred tokens, and a tokenizer would take minutes for 10 MB."""


@dataclass(frozen=True)
class Sample:
    """One training sample; its embeddings are unpadded: `<source>.tokens` [n, d] and `<source>.pooled` [p]."""

    key: str
    image: Image.Image
    caption: str
    embeddings: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


def embedding_tensors(sources: Mapping[str, Embedding], row: int) -> dict[str, Tensor]:
    """The unpadded tensors of sample `row` of an encoded batch, as a shard stores them: in bfloat16."""
    tensors = {}
    for name, embedding in sources.items():
        tensors[f"{name}.tokens"] = embedding.tokens[row][embedding.mask[row]].bfloat16().contiguous()
        if embedding.pooled is not None:
            tensors[f"{name}.pooled"] = embedding.pooled[row].bfloat16().contiguous()
    return tensors


def collate_embeddings(samples: list[Mapping[str, Tensor]]) -> dict[str, Embedding]:
    """The inverse for a batch, padded to its longest: embeddings by source, in the precision of the files. ValueError:
    the samples have embeddings of different sources."""
    if different := [tensors for tensors in samples if tensors.keys() != samples[0].keys()]:
        both = " and ".join(", ".join(sorted(tensors)) or "none" for tensors in (samples[0], different[0]))
        raise ValueError(f"samples of a batch have different embeddings ({both}): embed them again (ediffi embed)")
    sources = {}
    for name in sorted({key.rpartition(".")[0] for key in samples[0]}):  # safetensors does not keep an order
        parts = []
        for tensors in samples:
            tokens, pooled = tensors[f"{name}.tokens"], tensors.get(f"{name}.pooled")
            mask = torch.ones(1, len(tokens), dtype=torch.bool)
            parts.append(Embedding(tokens[None], mask, None if pooled is None else pooled[None]))
        sources[name] = Embedding.cat(parts)
    return sources


def write_shards(
    folder: Path, samples: Iterator[Sample], samples_per_shard: int, description: Mapping[str, Any]
) -> Path:
    """Write samples as `00000.tar`, `00001.tar`, ..., then the index with `description`; returns the path of the index.
    FileExistsError: the folder has an index already."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    if index.exists():
        raise FileExistsError(f"{index} exists: these shards are complete; choose another folder or remove it")
    shards: list[dict[str, Any]] = []
    while chunk := list(islice(samples, samples_per_shard)):
        name = f"{len(shards):05d}.tar"
        shards.append({"file": name, **write_tar(folder / name, map(_encoded, chunk))})
    return write_index(index, shards, description)


def write_tar(path: Path | str, samples: Iterable[RawSample]) -> dict[str, Any]:
    """Write undecoded samples as a shard, to a path or URL, through `urls.placing`; returns its entry in an index:
    "samples", "bytes", "sha256" and `ImageFacts`. Equal samples make equal bytes. OSError names the path."""
    count, facts = 0, ImageFacts()
    try:
        with urls.placing(str(path)) as beside:
            with beside.open("wb") as file:  # TarWriter would run a name that begins with `pipe:`
                with webdataset.TarWriter(file, encoder=False, mtime=0) as tar:  # a float would lengthen every header
                    for count, sample in enumerate(samples, start=1):  # noqa: B007
                        tar.write(sample)
                        facts.add(sample)
                file.flush()
                os.fsync(file.fileno())
            size, digest = beside.stat().st_size, files.sha256(beside)
    except OSError as error:
        if error.errno is None:  # of a store; it names the file
            raise
        raise OSError(error.errno, f"{error.strerror}, while writing", str(path)) from error
    return {"samples": count, "bytes": size, "sha256": digest, **facts.entry()}


def read_shard(url: Path | str, tally: Tally | None = None) -> Iterator[RawSample]:
    """The undecoded samples of a shard that can be trained on, in order; the others are counted in `tally`."""
    return read_samples(str(url), Tally() if tally is None else tally, _reject)


def load_shard(shard: Shard, least_side: int = 0, embedded: bool = True) -> list[RawSample]:
    """All undecoded samples of a shard, without those whose images have sides below `least_side`, as far as the index
    knows; a side of 0 is that of an image that cannot be read. `embedded` samples may have an empty caption.
    ValueError: the number or the hash differs from the index."""
    tally = Tally()
    raw = list(read_samples(str(shard.url), tally, reject_embedded if embedded else reject_for_embedding))
    if len(raw) != shard.samples:
        raise ValueError(f"{shard.url} has {len(raw)} complete samples, its index says {shard.samples}: write it again")
    if shard.sha256 and tally.sha256 != shard.sha256:
        hashes = f"has the sha256 {tally.sha256[:12]}..., its index says {shard.sha256[:12]}..."
        raise ValueError(f"{shard.url} {hashes}: it was changed or damaged; write it again")
    if shard.samples_from(least_side) < len(raw):
        raw = [sample for sample in raw if side_of(sample) >= least_side]
    return raw


def decode(
    raw: Mapping[str, Any],
    background: images.Color = images.WHITE,
    embedded: bool = True,
    encoders: Mapping[str, Mapping[str, Any]] = {},
) -> Sample:
    """Decode a sample, with its embeddings (of `encoders`) if it must be `embedded`; ValueError, which names the
    sample, if a member is missing or does not hold what its suffix says."""
    embeddings = embeddings_of(raw, encoders) if embedded else {}
    return Sample(raw["__key__"], image_of(raw, background), caption_of(raw), embeddings, metadata_of(raw))


def image_of(raw: Mapping[str, Any], background: images.Color = images.WHITE) -> Image.Image:
    """The image of a sample as RGB, on a background where it is transparent, turned by its EXIF orientation; raises as
    `decode`, and for too many pixels. Training, embedding and filtering all see the images of this function."""
    return read_image(image_bytes(raw), f"the image of sample {raw['__key__']!r}", background)


def caption_of(raw: Mapping[str, Any]) -> str:
    """The caption of a sample, from its text or else its metadata; empty if there is none. Raises as `decode`."""
    name = f"the caption of sample {raw['__key__']!r}"
    try:
        caption = raw["txt"].decode() if "txt" in raw else metadata_of(raw).get("caption")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8") from None
    caption = caption if isinstance(caption, str) else ""
    if len(caption) > MAX_CAPTION:
        raise ValueError(f"{name} has {len(caption):,} characters; at most {MAX_CAPTION:,} are allowed")
    return caption


def embeddings_of(
    raw: Mapping[str, Any],
    encoders: Mapping[str, Mapping[str, Any]] = {},
) -> dict[str, Tensor]:
    """The embeddings of a sample, by "source.tokens" and "source.pooled". `encoders` are those of its index, all of
    which it must have, as wide as they are. Raises as `decode`."""
    name = f"sample {raw['__key__']!r}"
    if "safetensors" not in raw:
        raise ValueError(f"{name} has no embeddings")
    try:
        found = safetensors.torch.load(raw["safetensors"])
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"the embeddings of {name} are broken: {error}") from None
    for source, encoder in encoders.items():
        for kind, dimensions, width in (
            ("tokens", 2, encoder.get("width")),
            ("pooled", 1, encoder.get("pooled_width")),
        ):
            tensor = found.get(f"{source}.{kind}")
            if tensor is None and (kind == "tokens" or width is not None):
                raise ValueError(f"{name} has no embeddings {source}.{kind}")
            if tensor is not None and (tensor.ndim != dimensions or tensor.shape[-1] != (width or tensor.shape[-1])):
                shape = list(tensor.shape)
                raise ValueError(f"the embeddings {source}.{kind} of {name} have the shape {shape}, not width {width}")
    for key, tensor in found.items():
        if not tensor.numel():
            raise ValueError(f"the embeddings {key} of {name} are empty")
        if not tensor.is_floating_point() or not all(bool(end.isfinite()) for end in extremes(tensor)):
            raise ValueError(f"the embeddings {key} of {name} are not finite numbers")
    return found


def metadata_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a sample, plain JSON; raises as `decode`."""
    try:
        content = plain_json.loads(raw.get("json", b"{}"))
    except ValueError as error:
        raise ValueError(f"the metadata of sample {raw['__key__']!r} are not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the metadata of sample {raw['__key__']!r} are not a JSON object")
    return content


def reject_without_image(raw: RawSample) -> str | None:
    """Why a sample cannot be measured."""
    return None if any(suffix in raw for suffix in IMAGES) else "no image"


def reject_for_embedding(raw: RawSample) -> str | None:
    """Why a sample cannot be embedded: no image, no caption, or img2dataset's `status` is not success."""
    if reason := reject_without_image(raw):
        return reason
    try:
        status = metadata_of(raw).get("status", "success")
        if status != "success":
            return f"status {str(status)[:40]}"
    except ValueError:
        return "metadata broken"
    try:
        return None if caption_of(raw).strip() else "no caption"
    except ValueError:
        return "caption not UTF-8, or too long"


def _reject(raw: RawSample) -> str | None:
    """Why a sample cannot be trained on."""
    if reason := reject_without_image(raw):
        return reason
    if "txt" not in raw:
        return "no caption"
    return None if "safetensors" in raw else "no embeddings"


def reject_embedded(raw: RawSample) -> str | None:
    """Why a sample is not counted in the index of embedded shards. One that lacks its embeddings is."""
    return reject_without_image(raw) or (None if "txt" in raw else reject_for_embedding(raw))


def _encoded(sample: Sample) -> RawSample:
    image = io.BytesIO()
    sample.image.save(image, "png")
    return {
        "__key__": sample.key,
        "png": image.getvalue(),
        "txt": sample.caption.encode(),
        "json": json.dumps(sample.metadata).encode(),
        "safetensors": safetensors.torch.save(dict(sample.embeddings)),
    }
