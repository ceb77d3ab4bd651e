"""From finished training runs to a model folder."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ediffi.hub.config import Part, read_config
from ediffi.hub.finding import CONFIG
from ediffi.hub.models import shipped_path
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, read_trained_stage, save_cascade
from ediffi.registry import denoisers, encoders
from ediffi.training.finished_run import read_run

logger = logging.getLogger(__name__)


@dataclass
class StageRecipe:
    """A stage of a cascade to compose.

    Args:
        name: "base", "sr64", ...
        run: directory of the training run (with `checkpoints/last.ckpt`) or a training checkpoint, several for experts;
            or a model folder, whose experts are copied as they are. None in a growth schedule, which makes the runs.
        resolution: side of its images in pixels.
        sampling: default sampling options.
        aug_level: noise on the low-resolution image at sampling; None in the base stage.
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
    """Write a cascade folder from training runs: EMA weights, registry names, sampling settings."""
    for part in encoder_parts.values():
        encoders.REGISTRY.factory(part.name)  # UnknownNameError before any weights are read
    encoder_files = encoder_files and shipped_path(encoder_files)
    return save_cascade(output, name, encoder_parts, encoder_files, [trained_stage(stage) for stage in stages])


def trained_stage(stage: StageRecipe, kept: Sequence[TrainedExpert] = ()) -> TrainedStage:
    """The stage of a recipe, from its runs and experts that are `kept` as they are, or from a model folder.

    ValueError if the runs differ in architecture or training noise.
    """
    if isinstance(stage.run, Path) and (stage.run / CONFIG).is_file():
        several = len(read_config(stage.run)["stages"]) > 1
        found = read_trained_stage(stage.run, stage.name if several else None)
        part, noise, experts = found.denoiser, found.noise, found.experts
    else:
        runs = [stage.run] if isinstance(stage.run, Path) else stage.run or []
        if not runs:
            raise ValueError(f"stage {stage.name!r} has no run to compose it of")
        trained = [read_run(run) for run in runs]
        part, noise = trained[0].denoiser, trained[0].noise
        for run, other in zip(runs, trained, strict=True):
            if not _same(other.denoiser, part):
                raise ValueError(f"{run} trained another network than {runs[0]}; the experts of a stage share one")
            if other.noise != noise:
                raise ValueError(f"{run} has training noise {other.noise}, {runs[0]} has {noise}; experts share it")
            if (steps := other.expert.expert.steps) < other.stage.max_steps:
                again = "the same `ediffi fit` command continues it"
                logger.warning("%s is at step %d of %d: %s", run, steps, other.stage.max_steps, again)
        experts = [*(run.expert for run in trained), *kept]
    return TrainedStage(stage.name, stage.resolution, part, noise, experts, stage.sampling, stage.aug_level)


def _same(one: Part, two: Part) -> bool:
    first, second = (denoisers.architecture(part.name, part.arguments) for part in (one, two))
    return first == second
