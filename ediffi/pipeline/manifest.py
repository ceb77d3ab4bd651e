"""A stage of a cascade as `config.json` tells it: registry names, plain arguments, and one weights file an expert.

Nothing in it names Python code, and nothing is unpickled. Every expert is listed with its noise, its parent, its file
and the file's sha256; a stage whose experts do not share all noise out, or whose files are not the ones listed, is
refused.
"""

import copy
import dataclasses
import inspect
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ediffi.diffusion.experts import Expert, ExpertTree
from ediffi.diffusion.noise import LogNormal, check_partition, region_from
from ediffi.diffusion.streaming import StreamedDenoisers, load_weights
from ediffi.io.files import sha256
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.registry import denoisers

Residency = Literal["resident", "stream"]
"""Whether all experts of a stage are in memory, or the one in use."""
PRECISIONS = (None, torch.float32, torch.float16, torch.bfloat16)
"""What networks may compute in; None is float32."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered part by name, with its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainedExpert:
    """An expert to write: what is known of it, and its weights or the safetensors file that has them."""

    expert: Expert
    weights: Mapping[str, Tensor] | Path


@dataclasses.dataclass(frozen=True)
class TrainedStage:
    """What is needed to write a stage.

    Attributes:
        name: "base", "sr64", ...
        resolution: side of its pictures.
        denoiser: registry name and arguments, the same for all experts.
        noise: the training noise whose quantiles the experts' regions are.
        experts: together they own all noise.
        sampling: its default settings.
        aug_level: see `Stage`.
    """

    name: str
    resolution: int
    denoiser: Part
    noise: LogNormal
    experts: Sequence[TrainedExpert]
    sampling: Sampling
    aug_level: float | None = None


@dataclasses.dataclass(frozen=True)
class Listed:
    """An expert as the manifest lists it."""

    expert: Expert
    file: str
    sha256: str


def save_stage(folder: Path, stage: TrainedStage) -> dict[str, Any]:
    """Write the experts' files into `folder`, weights as bfloat16, and return the stage's entry.

    Raises:
        ValueError: the experts do not share all noise out.
        OSError: a file cannot be written.
    """
    experts = sorted(stage.experts, key=lambda trained: trained.expert.region.spans)
    check_partition([trained.expert.region for trained in experts])
    rows = []
    for trained in experts:
        region, parent = trained.expert.region, trained.expert.parent
        path = folder / f"{stage.name}{f'-{region.label}' if len(experts) > 1 else ''}.safetensors"
        _write(path, trained.weights)
        rows.append(
            {
                "interval": dataclasses.asdict(region),
                "parent": None if parent is None else dataclasses.asdict(parent),
                "steps": trained.expert.steps,
                "file": path.name,
                "sha256": sha256(path),
            }
        )
    return {
        "name": stage.name,
        "resolution": stage.resolution,
        "denoiser": dataclasses.asdict(stage.denoiser),
        "noise": dataclasses.asdict(stage.noise),
        "experts": rows,
        "sampling": dataclasses.asdict(stage.sampling),
        "aug_level": stage.aug_level,
    }


def load_stage(
    folder: Path,
    entry: Mapping[str, Any],
    device: str | torch.device,
    residency: Residency,
    dtype: torch.dtype | None = None,
) -> Stage:
    """The stage of an entry, ready to sample; weights as float32.

    Args:
        folder: of the model.
        entry: of the stage.
        device: where its networks stand.
        residency: of its experts.
        dtype: float16 or bfloat16: linear and convolution weights are kept in it, and the networks run under autocast,
            as they do in mixed training; the rest, and what stands around the networks, stays float32.

    Raises:
        FileNotFoundError: an expert's file is missing.
        ValueError: the experts leave a gap or overlap, a file does not have the hash it should, or holds the weights of
            another network, or the entry names an unknown part; or the dtype is another.
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"torch_dtype must be {' or '.join(map(str, PRECISIONS))}, got {dtype}")
    rows = listed(entry)
    check_partition([row.expert.region for row in rows])
    files = [verified(folder, row) for row in rows]
    part = Part(**entry["denoiser"])
    network = build(part).to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    half = dtype if dtype in (torch.float16, torch.bfloat16) else None
    for layer in network.modules():
        if half is not None and isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(half)
    networks: nn.ModuleList | StreamedDenoisers
    if residency == "stream":
        networks = StreamedDenoisers(network, files)
    else:
        networks = nn.ModuleList([network, *(copy.deepcopy(network) for _ in files[1:])])
        for one, file in zip(networks, files, strict=True):
            load_weights(one, file)
    tree = ExpertTree(LogNormal(**entry["noise"]), [row.expert for row in rows], networks)
    if half is not None:
        tree.forward = torch.autocast(torch.device(device).type, half)(tree.forward)  # type: ignore[method-assign]
    return Stage(entry["name"], entry["resolution"], tree, Sampling(**entry["sampling"]), entry["aug_level"])


def read_stage(folder: Path, entry: Mapping[str, Any]) -> TrainedStage:
    """The stage of an entry, to be written again: its weights are its files, byte for byte."""
    return TrainedStage(
        entry["name"],
        entry["resolution"],
        Part(**entry["denoiser"]),
        LogNormal(**entry["noise"]),
        [TrainedExpert(row.expert, verified(folder, row)) for row in listed(entry)],
        Sampling(**entry["sampling"]),
        entry["aug_level"],
    )


def trained_again(folder: Path, entry: Mapping[str, Any], stage: Stage) -> TrainedStage:
    """A loaded stage, to be written again: an expert whose weights are those of its file is that file, byte for byte.

    Args:
        folder: that the stage was loaded from.
        entry: of the stage in it.
        stage: the stage.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the one any more that was loaded, or the stage is not a tree of experts.
    """
    tree = stage.denoiser
    if not isinstance(tree, ExpertTree):
        raise ValueError(f"stage {stage.name!r} is a {type(tree).__name__}, and only a tree of experts can be written")
    files = {row.expert.region: verified(folder, row) for row in listed(entry)}
    experts = []
    for index, expert in enumerate(tree.experts):
        file = files.get(expert.region)
        if file is not None and (isinstance(tree.denoisers, StreamedDenoisers) or _holds(file, tree.denoisers[index])):
            experts.append(TrainedExpert(expert, file))
        else:
            experts.append(TrainedExpert(expert, tree.denoisers[index].state_dict()))
    part = Part(**entry["denoiser"])
    return TrainedStage(stage.name, stage.resolution, part, tree.noise, experts, stage.sampling, stage.aug_level)


def listed(entry: Mapping[str, Any]) -> list[Listed]:
    """The experts of an entry, in order of noise."""
    rows = []
    for row in entry["experts"]:
        parent = None if row["parent"] is None else region_from(row["parent"])
        rows.append(Listed(Expert(region_from(row["interval"]), parent, row["steps"]), row["file"], row["sha256"]))
    return sorted(rows, key=lambda row: row.expert.region.spans)


def verified(folder: Path, row: Listed) -> Path:
    """The file of an expert.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not in the folder itself, or does not have the hash it should.
    """
    path = folder / row.file
    if Path(row.file).name != row.file:
        raise ValueError(f"the file of the expert of {row.expert.region} must be in {folder} itself, got {row.file!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, the expert of noise {row.expert.region}; the folder is incomplete")
    if (found := sha256(path)) != row.sha256:
        raise ValueError(
            f"{path} has sha256 {found[:12]}..., config.json says {row.sha256[:12]}...: truncated or changed"
        )
    return path


def build(part: Part) -> nn.Module:
    """The denoiser of a part; JSON's lists become the tuples that its signature has."""
    arguments = dict(part.arguments)
    defaults = inspect.signature(denoisers.REGISTRY.factory(part.name)).parameters
    for key, value in arguments.items():
        if key in defaults and isinstance(value, list):
            arguments[key] = tuple(value)
    return denoisers.create(part.name, **arguments)


def _holds(path: Path, network: nn.Module) -> bool:
    """Whether a file has the weights of a network, as far as the network's precision tells."""
    state = network.state_dict()
    with safetensors.safe_open(path, framework="pt") as file:
        return set(file.keys()) == set(state) and all(
            torch.equal(file.get_tensor(key).to(value.dtype), value.cpu()) for key, value in state.items()
        )


def _write(path: Path, weights: Mapping[str, Tensor] | Path) -> None:
    if isinstance(weights, Path):
        shutil.copyfile(weights, path)
        return
    try:
        safetensors.torch.save_file({key: v.to(torch.bfloat16).contiguous() for key, v in weights.items()}, path)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path.name} could not be written: {error}") from None
    path.chmod(0o644)  # safetensors writes files that only their owner may read
