"""The expert in a training checkpoint: its noise, its parent, its averaged weights, and how its stage samples.

A checkpoint is checked when it is loaded: its tensors by the CRC-32 of the file, or the SHA-256 of their shards, and
for finite values, everything else by its `DIGEST`.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import LogNormal, NoiseInterval, interval_from
from ediffi.diffusion.weights import extremes
from ediffi.hub.config import Part
from ediffi.io import pickles
from ediffi.pipeline.stage import Sampling
from ediffi.registry import denoisers
from ediffi.training.lora import Lora
from ediffi.training.shard_reader import SHARDS, filled

KEY = "expert"
"""Entry of a checkpoint that describes its expert."""
DIGEST = "ediffi_sha256"
"""Entry with the SHA-256 of all others: of their names and values, and of the types and shapes of tensors."""

TENSORS = ("state_dict", "current_model_state", "optimizer_states")
"""Entries with the average or the weights, the weights beside an average, and the moments of the optimiser."""


@dataclass(frozen=True)
class StageRecord:
    """What a model folder needs to know of a run besides its expert."""

    denoiser: Part | None  # None where it is not registered
    super_resolution: bool
    image_size: int | None  # None where the run did not train on `ShardData`
    max_steps: int  # -1 for no end
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)


class ExpertCheckpoint(NamedTuple):
    """What a checkpoint has of its expert."""

    expert: Expert  # its noise, parent and steps
    noise: LogNormal  # the training noise whose quantiles its interval is
    lora: Lora | None  # the low-rank adapter it was trained with
    weights: Mapping[str, Tensor]  # averaged: averaging callbacks save the average as the `state_dict`
    stage: StageRecord | None  # None in checkpoints of earlier versions


def describe(
    noise: LogNormal,
    region: NoiseInterval,
    parent: NoiseInterval | None,
    lora: Lora | None,
    stage: StageRecord | None = None,
) -> dict[str, Any]:
    """The entry `expert` of a checkpoint, plain values only."""
    entry: dict[str, Any] = {"noise": noise, "interval": region, "parent": parent, "lora": lora, "stage": stage}
    return {key: None if value is None else asdict(value) for key, value in entry.items()}


def parse(checkpoint: Mapping[str, Any]) -> ExpertCheckpoint:
    """The expert of a checkpoint's content; ValueError if it is not the checkpoint of a `DiffusionStage`."""
    try:
        entry = checkpoint[KEY]
        parent = None if entry["parent"] is None else interval_from(entry["parent"])
        state = checkpoint["state_dict"].items()
        return ExpertCheckpoint(
            Expert(interval_from(entry["interval"]), parent, checkpoint["global_step"]),
            LogNormal(**entry["noise"]),
            None if entry["lora"] is None else Lora(**entry["lora"]),
            {key.removeprefix("denoiser."): value for key, value in state if key.startswith("denoiser.")},
            _stage(entry.get("stage")),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a checkpoint of a DiffusionStage: {error}") from None


def _stage(entry: Mapping[str, Any] | None) -> StageRecord | None:
    if entry is None:
        return None
    denoiser = None if entry["denoiser"] is None else Part(**entry["denoiser"])
    return StageRecord(**{**entry, "denoiser": denoiser, "sampling": Sampling(**entry["sampling"])})


def read(path: Path, weights: bool = True) -> ExpertCheckpoint:
    """The expert of a checkpoint file, its weights memory-mapped unless they are sharded, or without its `weights`;
    ValueError names the file."""
    content = sealed(path, weights)
    try:
        return parse(filled_and_finite(path, content, ("state_dict",)) if weights else {**content, "state_dict": {}})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_network(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """ValueError unless the weights of a checkpoint are those of a recipe's network, by name and shape."""
    for name in dict.fromkeys((*own, *saved)):
        theirs, ours = (tuple(one[name].shape) if name in one else None for one in (saved, own))
        if theirs != ours:
            have = f"its {name} is {theirs}, the recipe's is {ours}"
            raise ValueError(f"the checkpoint is of another network than the recipe's: {have}")


def check_meaning(
    saved: StageRecord | None, made_by: tuple[str, Mapping[str, Any]] | None, may_differ: Collection[str] = ()
) -> None:
    """ValueError if the weights of a checkpoint fit the network of a recipe, but mean something else there; earlier
    versions do not record their network. `made_by` are the name and arguments of the recipe's."""
    part = None if saved is None else saved.denoiser
    if part is None or made_by is None or part.name not in denoisers.REGISTRY:
        return
    theirs, ours = denoisers.architecture(part.name, part.arguments), denoisers.architecture(*made_by)
    for key, value in ours[1].items():
        if theirs[0] == ours[0] and theirs[1].get(key) != value and key not in may_differ:
            raise ValueError(f"its {key} is {theirs[1].get(key)}, the recipe's {value}")


def steps(path: Path) -> int:
    """The optimiser steps behind a checkpoint of any module; ValueError names the file."""
    found = _content(path, check=False).get("global_step")
    if not isinstance(found, int):
        raise ValueError(f"{path} is no training checkpoint: it has no global_step")
    return found


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of any module, its tensors memory-mapped unless they are sharded. ValueError names
    the file: it is damaged, was changed after it was saved, or has a value that is not finite."""
    return filled_and_finite(path, sealed(path), TENSORS)


def filled_and_finite(path: Path, content: Mapping[str, Any], entries: Iterable[str]) -> dict[str, Any]:
    """A checkpoint with the tensors of these entries; ValueError if one is damaged, or not finite."""
    taken = {key: content[key] for key in (*entries, SHARDS) if key in content}
    whole = filled(path, taken)
    for name, tensor in _tensors(whole):
        if tensor.is_floating_point() and not all(bool(end.isfinite()) for end in extremes(tensor)):
            raise ValueError(f"{path}: {name} is not finite: use an older checkpoint")
    return {**{key: value for key, value in content.items() if key != SHARDS}, **whole}


def sealed(path: Path, check: bool = True) -> dict[str, Any]:
    """The content of a checkpoint file, without the tensors that are sharded; ValueError if it is damaged, or was
    changed after it was saved. Without `check`, damaged tensors in the file pass unnoticed."""
    content = _content(path, check)
    known = content.pop(DIGEST, None)  # earlier versions wrote none
    if known is not None and known != digest(content):
        raise ValueError(f"{path} was changed after it was saved: use an older checkpoint, or a copy")
    return content


def _content(path: Path, check: bool = True) -> dict[str, Any]:
    content = pickles.read(path, check)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no training checkpoint: it holds a {type(content).__name__}")
    return content


def digest(content: Mapping[str, Any]) -> str:
    """`DIGEST` of a checkpoint without it. Of tensors with several values the file has a CRC-32."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            found.update(f"{{{len(value)}".encode())
            for key, one in value.items():
                add(key)
                add(one)
        elif isinstance(value, list | tuple):
            found.update(f"[{len(value)}".encode())
            for one in value:
                add(one)
        elif isinstance(value, Tensor):
            alone = value.numel() == 1 and not value.is_meta  # as the optimiser's count of steps
            single = value.item() if alone else None
            found.update(f"<{value.dtype} {list(value.shape)} {single!r}".encode())
        else:
            text = repr(value)
            found.update(f"{len(text)} {text}".encode())

    add(content)
    return found.hexdigest()


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in pairs:
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
