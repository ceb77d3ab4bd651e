"""A cascade from a model folder: `config.json` (see `ediffi.hub.config`), safetensors weights, the encoders' files.

The folder may be on the Hub; then only the files that a call needs are downloaded, into the Hub's cache.
"""

import copy
import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ediffi.diffusion.experts import AutocastDenoiser, ExpertTree, in_dtype
from ediffi.diffusion.noise import LogNormal, NoiseInterval, check_partition, contains
from ediffi.diffusion.streaming import StreamedDenoisers
from ediffi.diffusion.weights import load_checked, without_weights
from ediffi.hub import config as hub_config
from ediffi.hub.config import Part, encoder_parts, expert_file, listed_experts, read_config, reading
from ediffi.hub.finding import FoundModel, find
from ediffi.io.files import CheckedFile, DamagedFileError, checking
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.registry import denoisers, encoders
from ediffi.registry.encoders.clip_files import forget_clips
from ediffi.registry.types import Encoder

Residency = Literal["resident", "stream"]
"""Whether all experts of a stage are in memory, or only the one in use."""


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
    found, again = find(model, revision, local_files_only), set[Path]()
    while True:
        try:
            return _load(found, device, residency, stages, dtype)
        except DamagedFileError as error:  # each file of the Hub once
            if error.path in again or not found.fetch_again(error.path):
                raise
            again.add(error.path)


def _load(
    found: FoundModel,
    device: str | torch.device,
    residency: Residency,
    stages: Sequence[str] | None,
    dtype: torch.dtype | None,
) -> CascadeParts:
    folder, config = found.folder, read_config(found.folder)
    with reading(folder):
        entries = hub_config.first_stages(config, stages)
        hub_config.check_registered(config, entries, str(found.address or folder))
        found.fetch(lambda: [*hub_config.weight_files(entries), *hub_config.encoder_files(config)])
        files = [[expert_file(folder, row) for row in listed_experts(entry)] for entry in entries]
        encoder_files = hub_config.listed_encoder_files(folder, config)
        with checking([*itertools.chain(*files), *encoder_files]):
            built = [load_stage(*one, device, residency, dtype) for one in zip(entries, files, strict=True)]
            for file in encoder_files:
                file.check()
        parts, name = encoder_parts(config), str(config["name"])
    read = {}
    forget_clips()  # the encoders of this cascade share a CLIP, with no other cascade's, which may stand elsewhere
    for source, part in parts.items():
        arguments = dict(part.arguments)
        if (folder / str(arguments.get("path"))).is_dir():
            arguments["path"] = str(folder / arguments["path"])
        encoder = encoders.create(part.name, **arguments)
        read[source] = encoder.to(device) if isinstance(encoder, nn.Module) else encoder
    forget_clips()
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
    entry: Mapping[str, Any],
    files: Sequence[CheckedFile],
    device: str | torch.device,
    residency: Residency,
    dtype: torch.dtype | None = None,
) -> Stage:
    """A stage of a model folder from its config's entry, ready to sample; errors as `Cascade.from_pretrained`.

    `files` are the weights of its experts, from low to high noise. The network is built once, without weights, and
    copied for each expert.

    With a half-precision `dtype` the weights of linear and convolution layers have it, and the networks run under
    autocast as in mixed-precision training; norms and embeddings stay float32, since they are small and lose most.
    """
    rows = listed_experts(entry)
    check_partition([row.expert.interval for row in rows])
    network = _build_empty(Part(**entry["denoiser"])).eval().requires_grad_(False)
    # Tensor cores want the channels last; other layers take either order.
    network = network.to(memory_format=torch.channels_last)
    if dtype is not None:
        in_dtype(network, dtype)
    networks: nn.ModuleList | StreamedDenoisers
    if residency == "stream":
        networks = StreamedDenoisers(network, files, device)
    else:
        networks = nn.ModuleList([network, *(copy.deepcopy(network) for _ in files[1:])])
        for one, file in zip(networks, files, strict=True):
            load_checked(one, file, device)
    denoiser: nn.Module = ExpertTree(LogNormal(**entry["noise"]), [row.expert for row in rows], networks)
    if dtype not in (None, torch.float32):
        denoiser = AutocastDenoiser(denoiser, dtype)
    return Stage(entry["name"], entry["resolution"], denoiser, Sampling(**entry["sampling"]), entry["aug_level"])


def load_expert(model: str | Path, stage: str, interval: NoiseInterval, denoiser: nn.Module) -> NoiseInterval:
    """Load the weights of the expert that owns all of `interval` into `denoiser`; return what that expert owns.

    ValueError: there is no such stage or expert, or the file is broken or of another network.
    """
    folder, entry = find_stage(model, stage)
    rows = [row for row in listed_experts(entry) if contains(row.expert.interval, interval)]
    if not rows:
        raise ValueError(f"no expert of stage {stage!r} of {folder} owns all of {interval}")
    load_checked(denoiser, expert_file(folder, rows[0]))
    return rows[0].expert.interval


def build_denoiser(part: Part) -> nn.Module:
    """The denoiser of a part; JSON lists become the tuples of its signature."""
    known = inspect.signature(denoisers.REGISTRY.factory(part.name)).parameters
    arguments = {k: tuple(v) if k in known and isinstance(v, list) else v for k, v in part.arguments.items()}
    return denoisers.create(part.name, **arguments)


def _build_empty(part: Part) -> nn.Module:
    """The denoiser of a part without its weights; with them if its constructor computes with them, as plug-ins may."""
    try:
        with without_weights():
            network = build_denoiser(part)
    except (NotImplementedError, RuntimeError):
        return build_denoiser(part)
    return build_denoiser(part) if any(buffer.is_meta for buffer in network.buffers()) else network
