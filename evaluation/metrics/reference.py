"""What generated images are compared with: mean, covariance and features of real ones, cached under a key.

The cache has a folder for each key, named by the key's SHA-256. It holds the rows of the pass, and, written last,
reference.safetensors (mean, cov) and reference.json (the key, and the SHA-256 of each file).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from safetensors.torch import load_file, save_file
from torch import Tensor

from ediffi.evaluation.images.numbered import NumberedImages
from ediffi.evaluation.metrics.features import FeatureExtractor
from ediffi.evaluation.metrics.manifold import radii_of
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.rows import Rows
from ediffi.io import plain_json
from ediffi.io.distributed import DistributedContext
from ediffi.io.files import replace, replacing, sha256

FORMAT = "ediffi-reference-1"
NOTE, MOMENTS, FEATURES = "reference.json", "reference.safetensors", "features.npy"


@dataclass(frozen=True)
class ReferenceStatistics:
    """Mean, unbiased covariance and features of real images."""

    mean: Float64[Tensor, " d"]
    cov: Float64[Tensor, "d d"]
    count: int | None  # images; None if it is not known
    file: Path | None  # the features, for KID, precision and recall; None if there are none
    protocol: Mapping[str, Any]  # the key, its "sha256", and whether others computed the statistics ("foreign")

    def features(self) -> Float32[Tensor, "n d"]:
        """The features of the images that are not broken, mapped from disk."""
        if self.file is None:
            raise ValueError("these reference statistics have a mean and a covariance, and no features")
        return Rows.read(self.file.parent).features()

    @cached_property
    def radii(self) -> Float32[Tensor, "m 5"]:
        """See `radii_of`: half of what the distances of 30,000 images to 40,504 cost, and equal for all settings."""
        return radii_of(self.features())


def reference_key(images: NumberedImages, extractor: FeatureExtractor, preparation: Mapping[str, Any]) -> Any:
    """What reference statistics depend on, a dictionary of plain JSON values."""
    key = {"pictures": images.fingerprint(), "count": len(images), "preparation": dict(preparation)}
    return dict(json.loads(json.dumps(key | {"feature_extractor": dict(extractor.protocol)})))


def key_sha256(key: Mapping[str, Any]) -> str:
    """SHA-256 of plain JSON values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def reference_statistics(
    images: NumberedImages,
    extractor: FeatureExtractor,
    cache: Path,
    preparation: Mapping[str, Any],
    context: DistributedContext | None = None,
    **options: Any,
) -> ReferenceStatistics:
    """The statistics of real images, all of one size: from the cache, or computed by all processes of the run.

    `preparation` says how the dataset made the images square. `options` are `batch_size` and `num_workers` of
    `measure`.
    """
    context = context or DistributedContext()
    key = reference_key(images, extractor, preparation)
    folder = cache / key_sha256(key)

    def extract() -> None:
        if not (folder / NOTE).is_file():
            measure(images, folder, MetricNetworks(extractor), context=context, **options)

    context.together(extract)
    first = context.together(lambda: read_reference(folder, key) if context.rank == 0 else None)  # it may write
    return first or read_reference(folder, key)


def extract_together(
    images: NumberedImages,
    extractors: Sequence[FeatureExtractor],
    cache: Path,
    preparation: Mapping[str, Any],
    context: DistributedContext | None = None,
    **options: Any,
) -> None:
    """Extract the features of real images by several extractors in one pass, where the cache lacks them; afterwards
    `reference_statistics` of each reads no image."""
    context = context or DistributedContext()
    places = [cache / key_sha256(reference_key(images, extractor, preparation)) for extractor in extractors]
    lacking = [
        (place, MetricNetworks(extractor))
        for place, extractor in zip(places, extractors, strict=True)
        if not (place / NOTE).is_file()
    ]
    if lacking:
        first, *rest = lacking
        run = partial(measure, images, *first, context=context, more=rest, **options)
        context.together(run)


def read_reference(folder: Path, key: Mapping[str, Any]) -> ReferenceStatistics:
    """The statistics in a folder of the cache; computed from its rows if that is not done yet.

    ValueError: they have another key, a file was changed, or rows are missing.
    """
    note = folder / NOTE
    if not note.is_file():
        rows = Rows.read(folder)
        moments = rows.moments()
        with replacing(folder / MOMENTS) as beside:
            save_file({"mean": moments.mean, "cov": moments.cov}, beside)
        hashes = {name: sha256(folder / name) for name in (MOMENTS, FEATURES)}
        values = {"format": FORMAT, "key": dict(key), "count": len(rows), "files": hashes}
        replace(note, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    try:
        content = plain_json.read(note)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found, files, count = content["key"], dict(content["files"]), int(content["count"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{note} is broken ({error}); delete its folder and start again") from None
    if differing := [name for name in sorted({*found, *key}) if found.get(name) != key.get(name)]:
        raise ValueError(f"{folder} holds reference statistics with another {', '.join(differing)}")
    for name in (MOMENTS, FEATURES):
        if not (folder / name).is_file() or sha256(folder / name) != files.get(name):
            raise ValueError(f"{folder / name} is missing or was changed; delete its folder and start again")
    tensors = load_file(folder / MOMENTS)
    protocol = {**key, "sha256": folder.name, "foreign": False}
    return ReferenceStatistics(tensors["mean"], tensors["cov"], count, folder / FEATURES, protocol)


def read_npz(path: Path, extractor: FeatureExtractor) -> ReferenceStatistics:
    """Statistics from elsewhere: an .npz with `mu` [d] and `sigma` [d, d], as pytorch-fid and clean-fid write them.

    How their images were selected and resized is not known, which the protocol says ("foreign").
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r} with reference statistics")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            mean, cov = (np.asarray(content[name], np.float64) for name in ("mu", "sigma"))
    except Exception as error:  # the zip reader, the array reader and the conversion raise many types
        raise ValueError(f"{str(path)!r} has no arrays mu and sigma ({error})") from None
    d = extractor.width
    if mean.shape != (d,) or cov.shape != (d, d):
        need = f"{extractor.protocol['name']} {extractor.protocol['layer']} needs [{d}] and [{d}, {d}]"
        raise ValueError(f"{str(path)!r} has mu {list(mean.shape)} and sigma {list(cov.shape)}; {need}")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all() and np.allclose(cov, cov.T)):
        raise ValueError(f"sigma of {str(path)!r} is no covariance: it must be finite and symmetric")
    key = {"file": path.name, "file_sha256": sha256(path), "feature_extractor": dict(extractor.protocol)}
    protocol = {**key, "sha256": key_sha256(key), "foreign": True}
    return ReferenceStatistics(torch.from_numpy(mean), torch.from_numpy(cov), None, None, protocol)
