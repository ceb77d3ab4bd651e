"""From finished training runs to a cascade folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ediffi.diffusion.noise import LogNormal
from ediffi.pipeline import folder
from ediffi.pipeline.manifest import Part, TrainedExpert, TrainedStage, build
from ediffi.pipeline.stage import Sampling
from ediffi.registry import denoisers, encoders
from ediffi.training import checkpoint as checkpoints
from ediffi.training import lora

TRAINING_ONLY = ("dropout", "gradient_checkpointing")


@dataclass
class StageRecipe:
    """A stage of a cascade to compose.

    Args:
        name: "base", "sr64", ...
        run: folder of the training run (`config.yaml` and `checkpoints/last.ckpt`), several for experts; or a model
            folder, whose experts are taken as they are. None in a growth schedule, which makes the runs.
        resolution: side of its pictures.
        sampling: default settings.
        aug_level: noise on the low-resolution picture at sampling; None in the base stage.
    """

    name: str
    resolution: int
    run: Path | list[Path] | None = None
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
        ValueError: a run's denoiser is not a registered one, or the experts of a stage do not share all noise out.
    """
    for part in encoder_parts.values():
        encoders.REGISTRY.factory(part.name)
    return folder.save(output, name, encoder_parts, encoder_files, [trained_stage(stage) for stage in stages])


def trained_stage(stage: StageRecipe) -> TrainedStage:
    """The stage of a recipe, from its runs or from a model folder; raises as `compose` does."""
    if isinstance(stage.run, Path) and (stage.run / folder.CONFIG).is_file():
        entries = [entry["name"] for entry in folder.read_config(stage.run)["stages"]]
        found = folder.trained_stage(stage.run, stage.name if len(entries) > 1 else None)
        return replace(
            found,
            name=stage.name,
            resolution=stage.resolution,
            sampling=stage.sampling,
            aug_level=stage.aug_level,
        )
    runs = [stage.run] if isinstance(stage.run, Path) else stage.run or []
    if not runs:
        raise ValueError(f"stage {stage.name!r} has no run to compose it of")
    trained = [read_run(run) for run in runs]
    part, noise = same_model(trained, runs)
    experts = [expert for expert, _, _ in trained]
    return TrainedStage(stage.name, stage.resolution, part, noise, experts, stage.sampling, stage.aug_level)


Run = tuple[TrainedExpert, Part, LogNormal]
"""An expert as its training run tells it, its denoiser, and the noise it was trained on."""


def read_run(run: Path) -> Run:
    """The expert of a finished training run: averaged weights, an adapter merged into them.

    Raises:
        FileNotFoundError: it has no config or no checkpoint.
        ValueError: its denoiser is not a registered one, or its checkpoint is broken.
    """
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "last.ckpt"
    for path in (config, checkpoint):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; is the run finished?")
    part = _registered(yaml.safe_load(config.read_text())["model"]["denoiser"])
    trained = checkpoints.read(checkpoint)
    weights = trained.weights
    if trained.lora is not None:
        weights = lora.merged(build(part), trained.lora, weights)
    return TrainedExpert(trained.expert, weights), part, trained.noise


def same_model(trained: Sequence[Run], runs: Sequence[Path]) -> tuple[Part, LogNormal]:
    """The denoiser and the training noise that the experts of a stage share.

    Raises:
        ValueError: they do not.
    """
    _, part, noise = trained[0]
    for run, (_, other_part, other_noise) in zip(runs, trained, strict=True):
        if _lasting(other_part) != _lasting(part):
            raise ValueError(
                f"{run} trained another network than {runs[0]}; the experts of a stage share one architecture"
            )
        if other_noise != noise:
            raise ValueError(f"{run} has the training noise {other_noise}, {runs[0]} has {noise}; experts share one")
    return part, noise


def _lasting(part: Part) -> tuple[str, dict[str, Any]]:
    """A denoiser without the arguments that matter in training only; lists and tuples are one."""
    arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in part.arguments.items() if k not in TRAINING_ONLY}
    return part.name, arguments


def _registered(config: Mapping[str, Any]) -> Part:
    """The registry name and arguments of a `class_path` / `init_args` pair."""
    name = config["class_path"].rpartition(".")[2]
    if name not in denoisers.REGISTRY:
        raise ValueError(f"the run's denoiser {config['class_path']} is not registered, so a folder cannot name it")
    return Part(name, config.get("init_args", {}))
