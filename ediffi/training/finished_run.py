"""Finished runs, of `ediffi fit` or of Python: the expert that each trained, and what `ediffi publish` takes of it."""

from pathlib import Path
from typing import NamedTuple

from ediffi.diffusion.noise import LogNormal
from ediffi.hub.config import Part
from ediffi.hub.finding import CONFIG
from ediffi.io import locks
from ediffi.pipeline.checkpoint import build_denoiser
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade
from ediffi.registry import denoisers
from ediffi.training import checkpoint as checkpoints
from ediffi.training import lora
from ediffi.training.checkpoint import StageRecord
from ediffi.training.class_paths import read_recipe

RECIPE = "config.yaml"
"""The recipe of a run in its directory, with all defaults."""
LAST = Path("checkpoints", "last.ckpt")
LOCK = "run.lock"
"""A training holds this lock of its directory while it runs."""


class FinishedRun(NamedTuple):
    """The expert of a run, its denoiser, the training noise whose quantiles its interval is, and size and sampling."""

    expert: TrainedExpert
    denoiser: Part
    noise: LogNormal
    stage: StageRecord


def read_run(run: Path) -> FinishedRun:
    """The averaged weights of a run, an adapter merged into them; ValueError if its denoiser is not registered.

    `run` is a run directory, with or without `config.yaml`, or a training checkpoint.
    """
    if not run.is_file():
        for path in (run / RECIPE, run / LAST):
            if not path.is_file() and not (run / LAST).is_file():
                raise FileNotFoundError(f"{path} is missing; is the run finished?")
        if (run / RECIPE).is_file() and "denoiser" not in (model := read_recipe(run / RECIPE)["model"]):
            kind = str(model.get("class_path")).rpartition(".")[2]
            raise ValueError(f"{run} trained {kind}, which is no denoiser of a stage")
    trained = checkpoints.read(run if run.is_file() else run / LAST)
    stage = trained.stage or _record_of_recipe(run)
    if stage.denoiser is None or stage.denoiser.name not in denoisers.REGISTRY:
        named = f", {stage.denoiser.name}," if stage.denoiser else ""
        raise ValueError(f"the denoiser of {run}{named} is not registered, so no folder can name it")
    weights = trained.weights
    if trained.lora is not None:
        weights = lora.merged(build_denoiser(stage.denoiser), trained.lora, weights)
    return FinishedRun(TrainedExpert(trained.expert, weights), stage.denoiser, trained.noise, stage)


def _record_of_recipe(run: Path) -> StageRecord:
    """What checkpoints of earlier versions do not have, from the recipe of their run."""
    place = run / RECIPE
    if not place.is_file():
        raise FileNotFoundError(f"{run} is of an earlier version, and there is no {place} that says what it trained")
    recipe = read_recipe(place)
    model, trainer = recipe["model"], recipe["trainer"]
    denoiser = Part(model["denoiser"]["class_path"].rpartition(".")[2], model["denoiser"].get("init_args", {}))
    callbacks = [c for c in trainer.get("callbacks") or [] if isinstance(c, dict)]
    options = [c["init_args"]["sampling"] for c in callbacks if c.get("class_path", "").endswith(".SampleGrid")]
    sampling = Sampling(**options[0]) if options else Sampling()
    size, end = int(recipe["data"]["image_size"]), trainer.get("max_steps") or -1
    return StageRecord(denoiser, model.get("low_res") is not None, size, end, sampling)


def model_folder(source: Path, scratch: Path) -> Path:
    """The model folder to publish: `source`, its folder `stage`, or one written into `scratch` from a training run.

    ValueError if the training has not ended, or a file is incomplete.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a directory; pass a model folder or the directory of a training run")
    grown = source / "stage"
    place = grown if (grown / CONFIG).is_file() and not (source / CONFIG).is_file() else source
    if (place / LOCK).is_file():
        with locks.try_hold(place / LOCK) as free:
            if not free:
                raise ValueError(f"a training runs in {place}; publish it when the training has ended")
    if incomplete := sorted(place.rglob("*.tmp")):
        raise ValueError(f"{incomplete[0]} is incomplete: remove it, or wait for the process that writes it")
    if (place / CONFIG).is_file():
        return place
    if not (place / RECIPE).is_file() and not (place / LAST).is_file():
        raise FileNotFoundError(f"{source} is neither a model folder ({CONFIG}) nor a run directory ({RECIPE})")
    stage = finished_stage(place)
    return save_cascade(scratch / stage.name, stage.name, {}, None, [stage])


def finished_stage(run: Path) -> TrainedStage:
    """The stage that a run trained, named after its directory, with the sampling options of its `SampleGrid`.

    A super-resolution stage gets `aug_level` 0, as in those grids.
    """
    expert, part, noise, record = read_run(run)
    if expert.expert.steps < record.max_steps:
        again = "run the same `ediffi fit` command again"
        raise ValueError(f"{run} is at step {expert.expert.steps} of {record.max_steps}: {again}")
    if record.image_size is None:
        raise ValueError(
            f"{run} was not trained on ShardData, so its size is not known; compose it, which names the size"
        )
    aug_level = 0.0 if record.super_resolution else None
    return TrainedStage(run.resolve().name, record.image_size, part, noise, [expert], record.sampling, aug_level)
