"""Compare two systems on the same captions, from what an evaluation leaves beside its rows: no image is read again.

`influences.safetensors` in a folder of rows has the influence of each image [n] on each metric, by the metric's name,
and the number of each image's caption under "units"; its metadata has the metrics, and the SHA-256 of the captions.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ediffi.evaluation.metrics.intervals import LEVEL, Difference, Measure, difference
from ediffi.io.files import replacing

FILE = "influences.safetensors"
FORMAT = "ediffi-influences-1"
UNITS = "units"


def write(folder: Path, measures: Mapping[str, Measure], units: np.ndarray, captions: str) -> None:
    """Write the influences of a folder of rows; `captions` is the fingerprint of the judged images' captions."""
    tensors = {name: one.influence for name, one in measures.items() if one.influence is not None}
    values = {name: measures[name].value for name in tensors}
    metadata = {"format": FORMAT, "captions": captions, "values": json.dumps(values)}
    with replacing(folder / FILE) as beside:
        save_file({**tensors, UNITS: units.astype(np.int64)}, beside, metadata)


def read(folder: Path) -> tuple[dict[str, Measure], np.ndarray, str]:
    """Metrics, caption numbers and the captions' fingerprint of a folder; ValueError: the file is broken."""
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {FILE} in {folder}; the same `ediffi evaluate` command writes it")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            values = json.loads(metadata["values"])
            measures = {name: Measure(float(value), file.get_tensor(name)) for name, value in values.items()}
            return measures, file.get_tensor(UNITS), metadata["captions"]
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
