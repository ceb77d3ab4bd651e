"""Trained stages, written as a model folder; the other direction is `ediffi.pipeline.checkpoint`."""

import dataclasses
import inspect
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ediffi.diffusion.experts import Expert, expert_tree
from ediffi.diffusion.noise import LogNormal, check_partition
from ediffi.diffusion.streaming import StreamedDenoisers
from ediffi.hub import config as hub_config
from ediffi.hub.config import Part, expert_file, listed_experts, read_config
from ediffi.hub.finding import CONFIG
from ediffi.io.files import replacing_folder, sha256
from ediffi.pipeline.checkpoint import find_stage
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.registry import denoisers


@dataclasses.dataclass(frozen=True)
class TrainedExpert:
    """An expert to write, with its weights or the safetensors file that has them."""

    expert: Expert
    weights: Mapping[str, Tensor] | Path


@dataclasses.dataclass(frozen=True)
class TrainedStage:
    """A stage to write; other fields as `Stage`."""

    name: str
    resolution: int
    denoiser: Part  # the same for all experts
    noise: LogNormal
    experts: Sequence[TrainedExpert]  # together they own all noise
    sampling: Sampling
    aug_level: float | None = None


def save_cascade(
    folder: Path,
    name: str,
    encoder_parts: Mapping[str, Part],
    encoder_files: Path | None,
    stages: Sequence[TrainedStage],
) -> Path:
    """Write a new model folder, weights in bfloat16, the base stage first; nothing is left behind by an error.

    The folder `encoder_files` is copied to `encoders/`; an encoder's argument `path` is relative to the model folder.
    FileExistsError: `folder` exists. ValueError: the experts of a stage do not partition the noise.
    """
    files: dict[str, Path] = {}
    if encoder_files is not None:
        if not encoder_files.is_dir():
            raise FileNotFoundError(f"encoder_files {encoder_files} is not a folder")
        kinds = (*hub_config.SUFFIXES, *hub_config.HARMLESS)
        found = sorted(path for path in encoder_files.rglob("*") if path.is_file() and path.suffix in kinds)
        files = {f"encoders/{path.relative_to(encoder_files).as_posix()}": path for path in found}
    return _write(folder, name, encoder_parts, files, stages)


def save_again(source: Path, folder: Path, stages: Sequence[Stage]) -> Path:
    """Write the stages that were loaded from `source` as a new model folder; errors as `Cascade.save_pretrained`.

    Files of encoders, and of experts whose weights are still the loaded ones, are copied byte for byte: bfloat16 would
    round weights that were published in float32. Weights that were changed since are written in bfloat16.
    """
    config = read_config(source)
    entries = {entry["name"]: entry for entry in config["stages"]}
    parts = hub_config.encoder_parts(config)
    for file in hub_config.listed_encoder_files(source, config):
        file.check()
    files = {name: source / name for name in hub_config.encoder_file_names(source, parts)}
    return _write(folder, config["name"], parts, files, [_trained_again(source, entries[s.name], s) for s in stages])


def read_trained_stage(model: str | Path, stage: str | None = None) -> TrainedStage:
    """A stage of a model folder, to be written into another byte for byte; arguments as `find_stage`."""
    folder, entry = find_stage(model, stage)
    experts = [TrainedExpert(row.expert, expert_file(folder, row).check()) for row in listed_experts(entry)]
    part, noise, sampling = Part(**entry["denoiser"]), LogNormal(**entry["noise"]), Sampling(**entry["sampling"])
    return TrainedStage(entry["name"], entry["resolution"], part, noise, experts, sampling, entry["aug_level"])


def _trained_again(folder: Path, entry: Mapping[str, Any], stage: Stage) -> TrainedStage:
    tree = expert_tree(stage.denoiser)
    if tree is None:
        raise ValueError(f"stage {stage.name!r} is a {type(stage.denoiser).__name__}; only an ExpertTree can be saved")
    files = {row.expert.interval: expert_file(folder, row).check() for row in listed_experts(entry)}
    experts = []
    for index, expert in enumerate(tree.experts):
        file = files.get(expert.interval)
        unchanged = file and (isinstance(tree.denoisers, StreamedDenoisers) or _equal(file, tree.denoisers[index]))
        experts.append(TrainedExpert(expert, file if file and unchanged else tree.denoisers[index].state_dict()))
    part = Part(**entry["denoiser"])
    return TrainedStage(stage.name, stage.resolution, part, tree.noise, experts, stage.sampling, stage.aug_level)


def _equal(path: Path, network: nn.Module) -> bool:
    # In the network's precision: a network that was loaded in half precision counts as unchanged.
    state = network.state_dict()
    with safetensors.safe_open(path, framework="pt") as file:
        return set(file.keys()) == set(state) and all(
            torch.equal(file.get_tensor(key).to(value.dtype), value.cpu()) for key, value in state.items()
        )


def _write(
    folder: Path, name: str, parts: Mapping[str, Part], files: Mapping[str, Path], stages: Sequence[TrainedStage]
) -> Path:
    """Write a model folder; `files` are the encoders' files by their path in it."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it")
    with replacing_folder(folder) as new:
        entries = [_write_stage(new, stage) for stage in stages]
        for path, file in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, new / path)
        written = {source: dataclasses.asdict(part) for source, part in parts.items()}
        config = {
            "format": hub_config.FORMAT,
            "name": name,
            "encoders": written,
            "stages": entries,
            "files": hub_config.find_encoder_files(new, parts),
            "packages": hub_config.packages(entries, written),
        }
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def is_saved(folder: Path, stage: TrainedStage) -> bool:
    """Whether a model folder consists of this stage, by what `config.json` says of it; weights in memory are not
    compared."""
    entries = read_config(folder)["stages"]
    if len(entries) != 1:
        return False
    written = {key: value for key, value in entries[0].items() if key != "experts"}
    described = json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(stage, experts=()))))
    described.pop("experts")
    experts, rows = sorted(stage.experts, key=lambda one: one.expert.interval.spans), listed_experts(entries[0])
    files = [(one.weights, row) for one, row in zip(experts, rows, strict=False) if isinstance(one.weights, Path)]
    return (
        written == described
        and [one.expert for one in experts] == [row.expert for row in rows]
        and all(sha256(file) == row.sha256 for file, row in files)
    )


def _write_stage(folder: Path, stage: TrainedStage) -> dict[str, Any]:
    # The experts' files, and the stage's entry in config.json.
    experts = sorted(stage.experts, key=lambda trained: trained.expert.interval.spans)
    check_partition([trained.expert.interval for trained in experts])
    rows = []
    for trained in experts:
        label = f"-{trained.expert.interval.label}" if len(experts) > 1 else ""
        path = folder / f"{stage.name}{label}.safetensors"
        if isinstance(trained.weights, Path):
            shutil.copyfile(trained.weights, path)
        else:
            half = {key: value.to(torch.bfloat16).contiguous() for key, value in trained.weights.items()}
            try:
                safetensors.torch.save_file(half, path)
            except safetensors.SafetensorError as error:
                raise OSError(f"{path.name} could not be written: {error}") from None
            path.chmod(0o644)  # safetensors writes files that only their owner may read
        rows.append({**dataclasses.asdict(trained.expert), "file": path.name, "sha256": sha256(path)})
    whole = dataclasses.replace(stage, experts=(), denoiser=_complete(stage.denoiser))
    return dataclasses.asdict(whole) | {"experts": rows}


def _complete(part: Part) -> Part:
    """The denoiser of a part with all its arguments, so that another version's defaults do not change it."""
    parameters = inspect.signature(denoisers.REGISTRY.factory(part.name)).parameters
    plain = (bool, int, float, str, tuple, list, dict, type(None))
    defaults = {name: p.default for name, p in parameters.items() if isinstance(p.default, plain)}
    return Part(part.name, defaults | dict(part.arguments))
