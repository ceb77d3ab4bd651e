"""Compare two systems on the same captions, from what an evaluation leaves beside its rows: no image is read again.

`influences.safetensors` in a folder of rows has the influence of each image [n] on each metric, by the metric's name,
and the number of each image's caption under "units"; its metadata has the metrics, the SHA-256 of the captions, and
that of all this.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ediffi.evaluation.metrics.intervals import LEVEL, Difference, Measure, difference
from ediffi.io import plain_json
from ediffi.io.files import replacing

FILE = "influences.safetensors"
FORMAT = "ediffi-influences-2"
UNHASHED = "ediffi-influences-1"
"""The format of earlier versions."""
UNITS = "units"


def write(folder: Path, measures: Mapping[str, Measure], units: np.ndarray, captions: str) -> None:
    """Write the influences of a folder of rows; `captions` is the fingerprint of the judged images' captions."""
    tensors = {name: one.influence for name, one in measures.items() if one.influence is not None}
    values = json.dumps({name: measures[name].value for name in tensors})
    tensors[UNITS] = units.astype(np.int64)
    metadata = {"format": FORMAT, "captions": captions, "values": values, "sha256": _hash(captions, values, tensors)}
    with replacing(folder / FILE) as beside:
        save_file(tensors, beside, metadata)


def _hash(captions: str, values: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all that the file holds."""
    digest = hashlib.sha256(json.dumps([captions, values, sorted(tensors)]).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def read(folder: Path) -> tuple[dict[str, Measure], np.ndarray, str]:
    """Metrics, caption numbers and the captions' fingerprint of a folder; ValueError: the file is broken."""
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {FILE} in {folder}; the same `ediffi evaluate` command writes it")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in (FORMAT, UNHASHED):
                raise ValueError(f"its format is not {FORMAT}")
            tensors, captions = {name: file.get_tensor(name) for name in file.keys()}, metadata["captions"]  # noqa: SIM118
            if metadata["format"] == FORMAT and metadata["sha256"] != _hash(captions, metadata["values"], tensors):
                raise ValueError("it was changed")
            values = plain_json.loads(metadata["values"])
            measures = {name: Measure(float(value), tensors[name]) for name, value in values.items()}
            return measures, tensors[UNITS], captions
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is broken ({error}); delete it, and evaluate again") from None


def differences(one: Path, other: Path, level: float = LEVEL) -> dict[str, Difference]:
    """How much each metric of the rows in `one` is above that of those in `other`, for every metric that both have.

    The folders are `rows/POINT` of two evaluations. That their references and networks are the same is for
    `results.check_comparable`. ValueError: they are of other captions.
    """
    (mine, units, captions), (theirs, _, others) = read(one), read(other)
    if captions != others:
        raise ValueError(f"{one} and {other} are of different captions, so nothing can be paired")
    return {name: difference(mine[name], theirs[name], units, level) for name in mine if name in theirs}
