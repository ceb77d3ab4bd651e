"""A cascade as a folder: `config.json` with registry names and plain arguments, safetensors beside it.

Nothing in it names Python code, and nothing is unpickled: a folder from elsewhere can only choose among the registered
parts. Every weights file is named with its sha256.
"""

import dataclasses
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ediffi.data.shards import sha256
from ediffi.sampling import Sampling, Stage
from registry import denoisers, encoders
from registry.types import Encoder

FORMAT = "ediffi-cascade-1"
SHIPPED = Path(__file__).parent / "weights"
CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered part by name, with its arguments."""

    name: str
    arguments: Mapping[str, Any]


class Contents(NamedTuple):
    """What a folder holds, built: the arguments of `Cascade`."""

    name: str
    encoders: dict[str, Encoder]
    stages: list[Stage]


@dataclasses.dataclass(frozen=True)
class TrainedStage:
    """What is needed to write a stage.

    Attributes:
        name: "base", "sr64", ...
        resolution: side of its pictures.
        denoiser: registry name and arguments.
        weights: state of the denoiser.
        sampling: its default settings.
        aug_level: see `Stage`.
    """

    name: str
    resolution: int
    denoiser: Part
    weights: Mapping[str, Tensor]
    sampling: Sampling
    aug_level: float | None = None


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


def load(model: str | Path, device: str | torch.device = "cpu") -> Contents:
    """Read a cascade's folder; weights as float32.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file is broken, does not have the hash it should, or names an unknown part.
    """
    folder = locate(model)
    config = _read_config(folder / CONFIG)
    try:
        stages = [_load_stage(folder, entry, device) for entry in config["stages"]]
        parts = {source: Part(**entry) for source, entry in config["encoders"].items()}
        name = config["name"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is not a complete {FORMAT}: {error}") from None
    return Contents(name, {source: _load_encoder(folder, part) for source, part in parts.items()}, stages)


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
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        entries = [_save_stage(Path(beside), stage) for stage in stages]
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


def _save_stage(folder: Path, stage: TrainedStage) -> dict[str, Any]:
    path = folder / f"{stage.name}.safetensors"
    weights = {key: value.to(torch.bfloat16).contiguous() for key, value in stage.weights.items()}
    safetensors.torch.save_file(weights, path)
    path.chmod(0o644)  # safetensors writes files that only their owner may read
    return {
        "name": stage.name,
        "resolution": stage.resolution,
        "denoiser": dataclasses.asdict(stage.denoiser),
        "weights": {"file": path.name, "sha256": sha256(path)},
        "sampling": dataclasses.asdict(stage.sampling),
        "aug_level": stage.aug_level,
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(f"{path} has the format {found!r}; this version reads {FORMAT!r}")
    return config


def _load_stage(folder: Path, entry: Mapping[str, Any], device: str | torch.device) -> Stage:
    denoiser = _build(Part(**entry["denoiser"]))
    weights = _load_weights(folder / entry["weights"]["file"], entry["weights"]["sha256"])
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(
            f"{folder / entry['weights']['file']} does not hold the weights of {entry['denoiser']['name']} with the "
            f"arguments in {CONFIG}"
        ) from None
    denoiser = denoiser.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    return Stage(entry["name"], entry["resolution"], denoiser, Sampling(**entry["sampling"]), entry["aug_level"])


def _build(part: Part) -> nn.Module:
    arguments = dict(part.arguments)
    defaults = inspect.signature(denoisers.REGISTRY.factory(part.name)).parameters
    for key, value in arguments.items():
        if key in defaults and isinstance(value, list):
            arguments[key] = tuple(value)
    return denoisers.create(part.name, **arguments)


def _load_weights(path: Path, expected: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the model folder is incomplete")
    if (found := sha256(path)) != expected:
        raise ValueError(f"{path} has sha256 {found[:12]}..., {CONFIG} says {expected[:12]}...: truncated or changed")
    try:
        return {key: value.float() for key, value in safetensors.torch.load_file(path).items()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def _load_encoder(folder: Path, part: Part) -> Encoder:
    arguments = dict(part.arguments)
    if (folder / str(arguments.get("path"))).is_dir():
        arguments["path"] = str(folder / arguments["path"])
    return encoders.create(part.name, **arguments)
