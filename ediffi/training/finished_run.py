"""Run directories of `ediffi fit`: the expert that a run trained, and what `ediffi publish` takes from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
from ediffi.training.class_paths import read_recipe

RECIPE = "config.yaml"
"""The recipe of a run in its directory, with all defaults."""
LAST = Path("checkpoints", "last.ckpt")
LOCK = "run.lock"
"""A training holds this lock of its directory while it runs."""


class FinishedRun(NamedTuple):
    """The expert of a run, its denoiser, the training noise whose quantiles its interval is, and the recipe."""

    expert: TrainedExpert
    denoiser: Part
    noise: LogNormal
    recipe: Mapping[str, Any]


def read_run(run: Path) -> FinishedRun:
    """The averaged weights of a run, an adapter merged into them; ValueError if its denoiser is not registered."""
    for path in (run / RECIPE, run / LAST):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; is the run finished?")
    recipe = read_recipe(run / RECIPE)
    if "denoiser" not in recipe["model"]:
        kind = str(recipe["model"].get("class_path")).rpartition(".")[2]
        raise ValueError(f"{run} trained {kind}, which is no denoiser of a stage")
    config = recipe["model"]["denoiser"]
    name = config["class_path"].rpartition(".")[2]
    if name not in denoisers.REGISTRY:
        raise ValueError(f"the denoiser of {run}, {config['class_path']}, is not registered, so no folder can name it")
    part = Part(name, config.get("init_args", {}))
    trained = checkpoints.read(run / LAST)
    weights = trained.weights
    if trained.lora is not None:
        weights = lora.merged(build_denoiser(part), trained.lora, weights)
    return FinishedRun(TrainedExpert(trained.expert, weights), part, trained.noise, recipe)


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
    if not (place / RECIPE).is_file():
        raise FileNotFoundError(f"{source} is neither a model folder ({CONFIG}) nor a run directory ({RECIPE})")
    stage = finished_stage(place)
    return save_cascade(scratch / stage.name, stage.name, {}, None, [stage])


def finished_stage(run: Path) -> TrainedStage:
    """The stage that a run trained, named after its directory, with the sampling options of its `SampleGrid`.

    A super-resolution stage gets `aug_level` 0, as in those grids.
    """
    expert, part, noise, config = read_run(run)
    last = config["trainer"].get("max_steps") or -1
    if expert.expert.steps < last:
        raise ValueError(f"{run} is at step {expert.expert.steps} of {last}: run the same `ediffi fit` command again")
    aug_level = None if config["model"].get("low_res") is None else 0.0
    name, size = run.resolve().name, int(config["data"]["image_size"])
    callbacks = [c for c in config["trainer"].get("callbacks") or [] if isinstance(c, dict)]
    options = [c["init_args"]["sampling"] for c in callbacks if c.get("class_path", "").endswith(".SampleGrid")]
    sampling = Sampling(**options[0]) if options else Sampling()
    return TrainedStage(name, size, part, noise, [expert], sampling, aug_level)
