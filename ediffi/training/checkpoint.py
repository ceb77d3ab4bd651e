"""The expert in a training checkpoint: its noise, its parent, its averaged weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import LogNormal, NoiseInterval, region_from
from ediffi.io import pickles
from ediffi.training.lora import Lora

KEY = "expert"
"""Entry of a checkpoint that describes its expert."""


@dataclass(frozen=True)
class ExpertCheckpoint:
    """What a checkpoint has of its expert.

    Attributes:
        expert: its noise, parent and steps.
        noise: the training noise whose quantiles its interval is.
        lora: the low-rank adapter it was trained with, or None.
        weights: the averaged weights of the denoiser: averaging callbacks save them as the `state_dict`.
    """

    expert: Expert
    noise: LogNormal
    lora: Lora | None
    weights: Mapping[str, Tensor]


def describe(
    noise: LogNormal, region: NoiseInterval, parent: NoiseInterval | None, lora: Lora | None
) -> dict[str, Any]:
    """The entry `expert` of a checkpoint, plain values only."""
    return {
        "noise": asdict(noise),
        "interval": asdict(region),
        "parent": None if parent is None else asdict(parent),
        "lora": None if lora is None else asdict(lora),
    }


def parse(checkpoint: Mapping[str, Any]) -> ExpertCheckpoint:
    """The expert of a checkpoint's content.

    Raises:
        ValueError: it is not the checkpoint of a `DiffusionStage`.
    """
    try:
        entry = checkpoint[KEY]
        parent = None if entry["parent"] is None else region_from(entry["parent"])
        state = checkpoint["state_dict"]
        return ExpertCheckpoint(
            Expert(region_from(entry["interval"]), parent, checkpoint["global_step"]),
            LogNormal(**entry["noise"]),
            None if entry["lora"] is None else Lora(**entry["lora"]),
            {key.removeprefix("denoiser."): value for key, value in state.items() if key.startswith("denoiser.")},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a checkpoint of a DiffusionStage: {error}") from None


def read(path: Path) -> ExpertCheckpoint:
    """The expert of a checkpoint file, its weights memory-mapped; only tensors and plain values are unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or not the checkpoint of a `DiffusionStage`.
    """
    content = pickles.read(path)
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
