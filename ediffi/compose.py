"""From finished training runs to a cascade folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from ediffi.folder import Part, TrainedStage, save
from ediffi.sampling import Sampling
from registry import denoisers, encoders


@dataclass
class StageRecipe:
    """A stage of a cascade to compose.

    Args:
        name: "base", "sr64", ...
        run: folder of the training run: `config.yaml` and `checkpoints/last.ckpt`.
        resolution: side of its pictures.
        sampling: default settings.
        aug_level: noise on the low-resolution picture at sampling; None in the base stage.
    """

    name: str
    run: Path
    resolution: int
    sampling: Sampling = field(default_factory=Sampling)
    aug_level: float | None = None


def compose(
    output: Path,
    name: str,
    stages: list[StageRecipe],
    encoder_parts: Mapping[str, Part],
    encoder_files: Path | None = None,
) -> Path:
    """Write a cascade folder from training runs: EMA weights, registry names, sampling settings.

    Raises:
        FileNotFoundError: a run has no config or no checkpoint.
        FileExistsError: `output` exists.
        UnknownNameError: an encoder is not registered.
        ValueError: a run's denoiser is not a registered one.
    """
    for part in encoder_parts.values():
        encoders.REGISTRY.factory(part.name)
    return save(output, name, encoder_parts, encoder_files, [_trained(stage) for stage in stages])


def _trained(stage: StageRecipe) -> TrainedStage:
    config, checkpoint = stage.run / "config.yaml", stage.run / "checkpoints" / "last.ckpt"
    for path in (config, checkpoint):
        if not path.is_file():
            raise FileNotFoundError(f"stage {stage.name!r}: {path} is missing; is the run finished?")
    denoiser = yaml.safe_load(config.read_text())["model"]["denoiser"]
    weights = ema_weights(checkpoint)
    return TrainedStage(stage.name, stage.resolution, _registered(denoiser), weights, stage.sampling, stage.aug_level)


def ema_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The denoiser's averaged weights: what Lightning's EMA callback saves as the checkpoint's state dict."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {key.removeprefix("denoiser."): value for key, value in state.items() if key.startswith("denoiser.")}


def _registered(config: Mapping[str, Any]) -> Part:
    """The registry name and arguments of a `class_path` / `init_args` pair."""
    name = config["class_path"].rpartition(".")[2]
    if name not in denoisers.REGISTRY:
        raise ValueError(f"the run's denoiser {config['class_path']} is not registered, so a folder cannot name it")
    return Part(name, config.get("init_args", {}))
