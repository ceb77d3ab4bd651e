"""What generated pictures are compared with: mean, covariance and features of real ones, cached under a key.

The cache has a folder for each key, called by the key's SHA-256: the rows of the pass, and then, written last,
reference.safetensors (mean, cov) and reference.json (the key, and the SHA-256 of each file).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ediffi.evaluation.images.numbered import Pictures
from ediffi.evaluation.metrics.features import FeatureExtractor
from ediffi.evaluation.metrics.passes import Networks, measure
from ediffi.evaluation.metrics.rows import Rows
from ediffi.io.files import replace, sha256

FORMAT = "ediffi-reference-1"
NOTE, MOMENTS, FEATURES = "reference.json", "reference.safetensors", "features.npy"


@dataclass(frozen=True)
class Reference:
    """Real pictures, as features.

    Attributes:
        mean: of the features.
        cov: of the features, unbiased.
        count: how many pictures; None where statistics of others do not say it.
        file: their features, for KID, precision and recall; None where there are none.
        protocol: plain JSON values for the reader of a number: the key, its "sha256", and whether it is "foreign".
    """

    mean: Float64[Tensor, " d"]
    cov: Float64[Tensor, "d d"]
    count: int | None
    file: Path | None
    protocol: Mapping[str, Any]

    def features(self) -> Float32[Tensor, "n d"]:
        """The features, mapped from disk.

        Raises:
            ValueError: there are none.
        """
        if self.file is None:
            raise ValueError("statistics of others have a mean and a covariance, and no features")
        return torch.from_numpy(np.load(self.file, mmap_mode="c"))


def reference_key(pictures: Pictures, extractor: FeatureExtractor, preparation: Mapping[str, Any]) -> dict[str, Any]:
    """What reference statistics depend on, as plain JSON values.

    Args:
        pictures: the real ones.
        extractor: whose features are taken.
        preparation: how they were made square, by the data set: rule and size.
    """
    key = {
        "pictures": pictures.fingerprint(),
        "count": len(pictures),
        "preparation": dict(preparation),
        "feature_extractor": dict(extractor.protocol),
    }
    return dict(json.loads(json.dumps(key)))


def reference_folder(cache: Path, key: Mapping[str, Any]) -> Path:
    """The folder of a key in a cache, which need not be there."""
    return cache / key_sha256(key)


def key_sha256(key: Mapping[str, Any]) -> str:
    """SHA-256 of plain JSON values, whatever the order of names."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def extract_reference(
    pictures: Pictures, extractor: FeatureExtractor, cache: Path, preparation: Mapping[str, Any], **options: Any
) -> Path:
    """Take the features of this process's share of the real pictures, unless the statistics are cached.

    Args:
        pictures: the real ones, all of one size; broken ones are refused.
        extractor: whose features are taken.
        cache: folder of all statistics.
        preparation: how the pictures were made square, by the data set.
        options: `batch_size`, `num_workers`, `rank` and `world_size` of `measure`.

    Returns:
        The folder for `read_reference`, which is to be called when all processes are done.

    Raises:
        ValueError: what `measure` raises.
        FileNotFoundError: a picture is missing.
    """
    folder = reference_folder(cache, reference_key(pictures, extractor, preparation))
    if not (folder / NOTE).is_file():
        measure(pictures, folder, Networks(extractor), **options)
    return folder


def read_reference(folder: Path, key: Mapping[str, Any]) -> Reference:
    """The statistics in a folder of the cache; made of the rows that are there, if they are not yet.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: they are of something else than `key` says, a file was changed, or the rows are not all there.
    """
    note = folder / NOTE
    if not note.is_file():
        _write(folder, key)
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found, files, count = content["key"], dict(content["files"]), int(content["count"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{note} is broken ({error}); delete its folder and begin again") from None
    if differing := [name for name in sorted({*found, *key}) if found.get(name) != key.get(name)]:
        raise ValueError(f"{folder} holds reference statistics with other {', '.join(differing)} than asked for")
    for name in (MOMENTS, FEATURES):
        if not (folder / name).is_file() or sha256(folder / name) != files.get(name):
            raise ValueError(f"{folder / name} is not the file that was written; delete its folder and begin again")
    tensors = _tensors(folder / MOMENTS)
    protocol = {**key, "sha256": folder.name, "foreign": False}
    return Reference(tensors["mean"], tensors["cov"], count, folder / FEATURES, protocol)


def _write(folder: Path, key: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    rows = Rows.read(folder)
    moments = rows.moments()
    beside = folder / f"{MOMENTS}.tmp"
    save_file({"mean": moments.mean, "cov": moments.cov}, beside)
    beside.replace(folder / MOMENTS)
    files = {name: sha256(folder / name) for name in (MOMENTS, FEATURES)}
    content = {"format": FORMAT, "key": dict(key), "count": len(rows), "files": files}
    replace(folder / NOTE, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def read_npz(path: Path, extractor: FeatureExtractor) -> Reference:
    """Statistics that others made: an .npz with `mu` [d] and `sigma` [d, d], as pytorch-fid and clean-fid write them.

    How their pictures were chosen and resized is not known, which the protocol says ("foreign").

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or its width is not the extractor's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r} with reference statistics")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            mean, cov = (np.asarray(content[name], np.float64) for name in ("mu", "sigma"))
    except Exception as error:  # the zip reader, the array reader and the conversion raise what they like
        raise ValueError(f"{str(path)!r} has no arrays mu and sigma ({error})") from None
    d = extractor.width
    if mean.shape != (d,) or cov.shape != (d, d):
        raise ValueError(
            f"{str(path)!r} has mu {list(mean.shape)} and sigma {list(cov.shape)}; "
            f"{extractor.name} {extractor.layer} needs [{d}] and [{d}, {d}]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all() and np.allclose(cov, cov.T)):
        raise ValueError(f"{str(path)!r} has no covariance in sigma: it has to be finite and symmetric")
    key = {"file": path.name, "file_sha256": sha256(path), "feature_extractor": dict(extractor.protocol)}
    protocol = {**key, "sha256": key_sha256(key), "foreign": True}
    return Reference(torch.from_numpy(mean), torch.from_numpy(cov), None, None, protocol)
