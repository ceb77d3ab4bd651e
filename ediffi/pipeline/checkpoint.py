"""A cascade from a model folder: `config.json` (see `ediffi.hub.config`), safetensors weights, the encoders' files.

The folder may be on the Hub; then only the files that a call needs are downloaded, into the Hub's cache.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ediffi.diffusion.experts import AutocastDenoiser, ExpertTree
from ediffi.diffusion.noise import LogNormal, NoiseInterval, check_partition, contains
from ediffi.diffusion.streaming import StreamedDenoisers, load_weights
from ediffi.hub import config as hub_config
from ediffi.hub.config import Part, encoder_parts, listed_experts, read_config, reading, verified_file
from ediffi.hub.finding import find
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.registry import denoisers, encoders
from ediffi.registry.types import Encoder

Residency = Literal["resident", "stream"]
"""Whether all experts of a stage are in memory, or only the one in use."""
HALF = (torch.float16, torch.bfloat16)


class CascadeParts(NamedTuple):
    """The arguments of `Cascade`."""

    name: str
    encoders: dict[str, Encoder]
    stages: list[Stage]
    source: Path


def load_cascade(
    model: str | Path,
    device: str | torch.device = "cpu",
    residency: Residency = "resident",
    revision: str | None = None,
    stages: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    local_files_only: bool = False,
) -> CascadeParts:
    """Read a cascade from a folder or from the Hub; arguments and errors as `Cascade.from_pretrained`."""
    found = find(model, revision, local_files_only)
    folder, config = found.folder, read_config(found.folder)
    with reading(folder):
        entries = hub_config.first_stages(config, stages)
        hub_config.check_registered(config, entries, str(found.address or folder))
        found.fetch(lambda: [*hub_config.weight_files(entries), *hub_config.encoder_files(config)])
        built = [load_stage(folder, entry, device, residency, dtype) for entry in entries]
        hub_config.check_encoder_files(folder, config)
        parts, name = encoder_parts(config), str(config["name"])
    read = {}
    for source, part in parts.items():
        arguments = dict(part.arguments)
        if (folder / str(arguments.get("path"))).is_dir():
            arguments["path"] = str(folder / arguments["path"])
        read[source] = encoders.create(part.name, **arguments)
    return CascadeParts(name, read, built, folder.absolute())


def locate(model: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a model with all its files, downloaded if it is on the Hub; arguments and errors as `find`."""
    found = find(model, revision, local_files_only)
    config = read_config(found.folder)
    with reading(found.folder):
        found.fetch(lambda: [*hub_config.weight_files(config["stages"]), *hub_config.encoder_files(config)])
    return found.folder


def find_stage(model: str | Path, stage: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder of a model and its entry of one stage, by default the only one; only its files are downloaded.

    ValueError: the model has no such stage, or several to choose from.
    """
    found = find(model)
    with reading(found.folder):
        entries = {entry["name"]: entry for entry in read_config(found.folder)["stages"]}
        if stage is None and len(entries) == 1:
            stage = next(iter(entries))
        if stage not in entries:
            where = found.address or found.folder
            raise ValueError(f"{where} has no stage {stage!r}; its stages are {', '.join(entries)}")
        found.fetch(lambda: hub_config.weight_files([entries[stage]]))
    return found.folder, entries[stage]


def load_stage(
    folder: Path,
    entry: Mapping[str, Any],
    device: str | torch.device,
    residency: Residency,
    dtype: torch.dtype | None = None,
) -> Stage:
    """A stage of a model folder from its config's entry, ready to sample; errors as `Cascade.from_pretrained`.

    With a half-precision `dtype` the weights of linear and convolution layers have it, and the networks run under
    autocast as in mixed-precision training; norms and embeddings stay float32, since they are small and lose most.
    """
    if dtype not in (None, torch.float32, *HALF):
        raise ValueError(f"torch_dtype must be None, torch.float32, torch.float16 or torch.bfloat16, got {dtype}")
    rows = listed_experts(entry)
    check_partition([row.expert.interval for row in rows])
    files = [verified_file(folder, row) for row in rows]
    network = build_denoiser(Part(**entry["denoiser"])).eval().requires_grad_(False)
    # Tensor cores want the channels last; other layers take either order.
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    half = dtype if dtype in HALF else None
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
    denoiser: nn.Module = ExpertTree(LogNormal(**entry["noise"]), [row.expert for row in rows], networks)
    if half is not None:
        denoiser = AutocastDenoiser(denoiser, half)
    return Stage(entry["name"], entry["resolution"], denoiser, Sampling(**entry["sampling"]), entry["aug_level"])


def load_expert(model: str | Path, stage: str, interval: NoiseInterval, denoiser: nn.Module) -> NoiseInterval:
    """Load the weights of the expert that owns all of `interval` into `denoiser`; return what that expert owns.

    ValueError: there is no such stage or expert, or the file is broken or of another network.
    """
    folder, entry = find_stage(model, stage)
    rows = [row for row in listed_experts(entry) if contains(row.expert.interval, interval)]
    if not rows:
        raise ValueError(f"no expert of stage {stage!r} of {folder} owns all of {interval}")
    load_weights(denoiser, verified_file(folder, rows[0]))
    return rows[0].expert.interval


def build_denoiser(part: Part) -> nn.Module:
    """The denoiser of a part; JSON lists become the tuples of its signature."""
    known = inspect.signature(denoisers.REGISTRY.factory(part.name)).parameters
    arguments = {k: tuple(v) if k in known and isinstance(v, list) else v for k, v in part.arguments.items()}
    return denoisers.create(part.name, **arguments)
