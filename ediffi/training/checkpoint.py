"""What a training checkpoint says of the expert it holds: its noise, its parent, its averaged weights."""

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


@dataclass(frozen=True)
class ExpertCheckpoint:
    """An expert as its checkpoint tells it.

    Attributes:
        expert: its noise, parent and steps.
        noise: the training noise whose quantiles its region is.
        lora: the low-rank adapter it was trained with, or None.
        weights: the denoiser's averaged weights: what Lightning's EMA callback saves as the checkpoint's state dict.
    """

    expert: Expert
    noise: LogNormal
    lora: Lora | None
    weights: Mapping[str, Tensor]


def describe(
    noise: LogNormal, region: NoiseInterval, parent: NoiseInterval | None, lora: Lora | None
) -> dict[str, Any]:
    """The entry of a checkpoint, plain values only."""
    return {
        "noise": asdict(noise),
        "interval": asdict(region),
        "parent": None if parent is None else asdict(parent),
        "lora": None if lora is None else asdict(lora),
    }


def parse(checkpoint: Mapping[str, Any]) -> ExpertCheckpoint:
    """The expert of a checkpoint's content.

    Raises:
        ValueError: it is not the checkpoint of a stage.
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
        raise ValueError(f"not the checkpoint of a stage: {error}") from None


def read(path: Path) -> ExpertCheckpoint:
    """The expert of a checkpoint file, its weights memory-mapped; nothing is unpickled but tensors and plain values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or not the checkpoint of a stage.
    """
    content = pickles.read(path)
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
