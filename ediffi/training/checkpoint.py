"""The expert in a training checkpoint: its noise, its parent, its averaged weights, and how its stage samples."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import LogNormal, NoiseInterval, interval_from
from ediffi.hub.config import Part
from ediffi.io import pickles
from ediffi.pipeline.stage import Sampling
from ediffi.training.lora import Lora

KEY = "expert"
"""Entry of a checkpoint that describes its expert."""


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


def read(path: Path) -> ExpertCheckpoint:
    """The expert of a checkpoint file, its weights memory-mapped; ValueError names the file."""
    content = pickles.read(path)
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def steps(path: Path) -> int:
    """The optimiser steps behind a checkpoint of any module; ValueError names the file."""
    found = pickles.read(path).get("global_step")
    if not isinstance(found, int):
        raise ValueError(f"{path} is no training checkpoint: it has no global_step")
    return found
