"""A cascade as a folder: `config.json` with registry names and plain arguments, safetensors beside it.

Nothing in it names Python code, and nothing is unpickled: a folder from elsewhere can only choose among the registered
parts. Every weights file is named with its sha256.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ediffi.manifest import Part, Residency, TrainedStage, listed, load_stage, read_stage, save_stage, verified
from ediffi.noise import Region, contains
from ediffi.sampling import Stage
from ediffi.streaming import load_weights
from registry import encoders
from registry.types import Encoder

FORMAT = "ediffi-cascade-2"
SHIPPED = Path(__file__).parent / "weights"
CONFIG = "config.json"


class Contents(NamedTuple):
    """What a folder holds, built: the arguments of `Cascade`."""

    name: str
    encoders: dict[str, Encoder]
    stages: list[Stage]


def models() -> list[str]:
    """Names of the cascades that ship with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def locate(model: str | Path) -> Path:
    """The folder of a shipped cascade, or the folder itself.

    Raises:
        FileNotFoundError: it is neither.
    """
    if (SHIPPED / str(model) / CONFIG).is_file() and str(model) in models():
        return SHIPPED / str(model)
    folder = Path(model)
    if not folder.is_dir():
        raise FileNotFoundError(f"no model {str(model)!r}: neither a folder nor one of {', '.join(models()) or 'none'}")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no {CONFIG}")
    return folder


def load(model: str | Path, device: str | torch.device = "cpu", residency: Residency = "resident") -> Contents:
    """Read a cascade's folder; weights as float32.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file is broken, does not have the hash it should, or names an unknown part, or the experts of a
            stage do not share all noise out.
    """
    folder = locate(model)
    config = read_config(folder)
    try:
        stages = [load_stage(folder, entry, device, residency) for entry in config["stages"]]
        parts = {source: Part(**entry) for source, entry in config["encoders"].items()}
        name = config["name"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is not a complete {FORMAT}: {error}") from None
    return Contents(name, {source: _load_encoder(folder, part) for source, part in parts.items()}, stages)


def find_stage(model: str | Path, stage: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder of a model and its entry of a stage; the only one by default.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no such stage, or several to choose from.
    """
    folder = locate(model)
    entries = {entry["name"]: entry for entry in read_config(folder)["stages"]}
    if stage is None and len(entries) == 1:
        return folder, next(iter(entries.values()))
    if stage not in entries:
        raise ValueError(f"{folder} has no stage {stage!r}; its stages are {', '.join(entries)}")
    return folder, entries[stage]


def trained_stage(model: str | Path, stage: str | None = None) -> TrainedStage:
    """A stage of a folder, to be written into another; arguments as `find_stage`."""
    return read_stage(*find_stage(model, stage))


def load_expert(model: str | Path, stage: str, region: Region, denoiser: nn.Module) -> Region:
    """Load the weights of the expert that owns all of `region` into `denoiser`, and return what it owns.

    Raises:
        FileNotFoundError: the folder or the expert's file is missing.
        ValueError: there is no such stage or expert, or the file is broken or of another network.
    """
    folder, entry = find_stage(model, stage)
    rows = [row for row in listed(entry) if contains(row.expert.region, region)]
    if not rows:
        raise ValueError(f"no expert of stage {stage!r} of {folder} owns all of {region}")
    load_weights(denoiser, verified(folder, rows[0]))
    return rows[0].expert.region


def save(
    folder: Path,
    name: str,
    encoder_parts: Mapping[str, Part],
    encoder_files: Path | None,
    stages: Sequence[TrainedStage],
) -> Path:
    """Write a cascade beside `folder`, then rename it into place; weights in bfloat16.

    Args:
        folder: must not exist.
        name: of the model.
        encoder_parts: encoders by source; an argument `path` is relative to the folder.
        encoder_files: copied to `encoders/` in the folder; None if the encoders bring their own.
        stages: base stage first.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: the experts of a stage do not share all noise out.
        OSError: a file cannot be written; nothing is left behind.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        entries = [save_stage(Path(beside), stage) for stage in stages]
        if encoder_files is not None:
            shutil.copytree(encoder_files, Path(beside) / "encoders")
        config = {
            "format": FORMAT,
            "name": name,
            "encoders": {source: dataclasses.asdict(part) for source, part in encoder_parts.items()},
            "stages": entries,
        }
        (Path(beside) / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        Path(beside).chmod(0o755)
        os.rename(beside, folder)
        Path(beside).mkdir()
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`.

    Raises:
        ValueError: it is not JSON, or of another format.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(f"{path} has the format {found!r}; this version reads {FORMAT!r}")
    return config


def _load_encoder(folder: Path, part: Part) -> Encoder:
    arguments = dict(part.arguments)
    if (folder / str(arguments.get("path"))).is_dir():
        arguments["path"] = str(folder / arguments["path"])
    return encoders.create(part.name, **arguments)
