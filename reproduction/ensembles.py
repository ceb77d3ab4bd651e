"""The models that are compared: ensembles that grew from one trunk for the same number of samples.

Steps are shared out by the share of the noise, so that every noise level is trained on equally often in all of them,
under one schedule of the learning rate.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from ediffi.cli.recipes import names, path_of
from ediffi.diffusion.noise import ROOT, Complement, Interval, LogNormal, NoiseInterval
from ediffi.hub.config import Part, read_config
from ediffi.hub.finding import CONFIG
from ediffi.pipeline.checkpoint import locate
from ediffi.pipeline.trained_stage import TrainedStage, read_trained_stage, save_cascade
from ediffi.training.growth.compose import StageRecipe, trained_stage
from ediffi.training.growth.grow import grow
from ediffi.training.growth.schedule import GrowthNode, TrunkStage
from reproduction.directory import ReproductionDirectory

LOW, HIGH = Interval(2, 0), Interval(2, 3)
SPLITS: Mapping[str, Sequence[NoiseInterval]] = {
    "single": (ROOT,),
    "two": ROOT.children,
    "three": (LOW, Complement((LOW, HIGH)), HIGH),
    "three, thin ends": (Interval(3, 0), Complement((Interval(3, 0), Interval(3, 7))), Interval(3, 7)),
    "four, uniform": tuple(Interval(2, index) for index in range(4)),
    "five": (
        Interval(3, 0),
        Interval(3, 1),
        Complement((Interval(2, 0), Interval(2, 3))),
        Interval(3, 6),
        Interval(3, 7),
    ),
}
"""Who owns which noise. "three" is the paper's way, but for its last 1/512, which has no samples here."""
ENCODERS = ("t5", "clip", "both")


def shards(repro: ReproductionDirectory) -> tuple[Path, Path]:
    """Training and held-out scenes, rendered once; reference pictures show a style, as the shipped model's did."""
    from ediffi.hub.models import SHIPPED
    from ediffi.toybox.shards import write_toybox

    encoders, counts = SHIPPED / "toybox" / "encoders", (repro.budget.training.samples, repro.budget.scenes)
    places = repro.path("shards", "train"), repro.path("shards", "test")
    for place, count, split, seed in zip(places, counts, ("train", "test"), (0, 1), strict=True):
        with repro.lock(f"shards-{split}"):
            if not (place / "index.json").is_file():
                for cut in place.glob("*"):
                    cut.unlink()
                shared: dict[str, Any] = {"reference": "style", "long_share": 0.25, "layout_share": 0.5}
                write_toybox(place, encoders, 64, count, split, seed, **shared)  # type: ignore[arg-type]
    return places


def base(repro: ReproductionDirectory, split: str, seed: int) -> Path:
    """The base stage of the budget's model, grown into an ensemble; a model folder of one stage."""
    model, budget = repro.budget.model, repro.budget.training
    stage = model_stage(model, 0)
    changes = {"model.dropout": {"clip_text": 0.2, "t5": 0.25, "clip_image": 0.5}}
    trunk = TrunkStage(model, stage.name)
    return _grown(repro, f"base-{split}-{seed}", budget.base, split, budget.arm_steps, stage, trunk, seed, changes)


def super_resolution(repro: ReproductionDirectory, split: str, seed: int) -> Path:
    """The second stage, grown from a model for all noise that was trained here."""
    budget, stage = repro.budget.training, model_stage(repro.budget.model, 1)
    trunk = _grown(
        repro,
        "sr-trunk",
        budget.super_resolution,
        "single",
        budget.trunk_steps,
        stage,
        None,
        0,
        {},
        branching=False,
    )
    start = TrunkStage(str(trunk), stage.name)
    name = f"sr-{split}-{seed}"
    return _grown(repro, name, budget.super_resolution, split, budget.branch_steps, stage, start, seed, {})


def with_encoders(repro: ReproductionDirectory, which: str) -> Path:
    """A quarter of the base network, from random weights, that reads T5, CLIP text or both (figure 8)."""
    budget, stage = repro.budget.training, model_stage(repro.budget.model, 0)
    change = yaml.safe_load(path_of(f"toybox/ablation/{which}").read_text())["model"]["denoiser"]["init_args"]
    changes = {f"model.denoiser.init_args.{name}": value for name, value in change.items()}
    name = f"encoders-{which}"
    return _grown(repro, name, budget.base, "single", budget.encoder_steps, stage, None, 0, changes, branching=False)


def model(
    repro: ReproductionDirectory, name: str, base: Path | None = None, super_resolution: Path | None = None
) -> Path:
    """A model folder of two stages: those grown here, and otherwise the budget's model's own."""
    place = repro.path("models", name)
    source = locate(repro.budget.model)
    parts = {source_: Part(**entry) for source_, entry in read_config(source)["encoders"].items()}
    files = source / "encoders" if (source / "encoders").is_dir() else None
    stages = [
        model_stage(repro.budget.model, index) if run is None else trained_stage(_recipe(repro, index, run))
        for index, run in enumerate((base, super_resolution))
    ]
    with repro.lock(f"model-{name}"):
        return place if place.is_dir() else save_cascade(place, name, parts, files, stages)


def model_stage(model: str, index: int) -> TrainedStage:
    """A stage of a model, by its number, to be written again."""
    place = locate(model)
    return read_trained_stage(place, read_config(place)["stages"][index]["name"])


def parameters(model: Path | str) -> int:
    """Of all experts of the first two stages."""
    place = locate(model)
    stages = read_config(place)["stages"][:2]
    kept = [read_trained_stage(place, stage["name"]) for stage in stages]
    return sum(_size(expert.weights) for stage in kept for expert in stage.experts)


def _size(weights: Any) -> int:
    from safetensors import safe_open

    if isinstance(weights, Path):
        with safe_open(weights, "pt") as file:
            return sum(int(file.get_tensor(key).numel()) for key in file.keys())  # noqa: SIM118
    return sum(tensor.numel() for tensor in weights.values())


def _recipe(repro: ReproductionDirectory, index: int, run: Path | None) -> StageRecipe:
    stage = model_stage(repro.budget.model, index)
    return StageRecipe(stage.name, stage.resolution, run, stage.sampling, stage.aug_level)


def _grown(
    repro: ReproductionDirectory,
    name: str,
    recipe: str,
    split: str,
    steps: int,
    stage: TrainedStage,
    trunk: TrunkStage | None,
    seed: int,
    changes: Mapping[str, Any],
    branching: bool = True,
) -> Path:
    """A stage grown into the experts of a split; resumes a training that was interrupted. Returns its folder."""
    output = repro.path("runs", name.replace(", ", "-").replace(" ", "-"))
    place = output / "stage"
    with repro.lock(output.name):
        if (place / CONFIG).is_file():
            return place
        train, test = shards(repro)
        nodes = [_node(region, max(1, round(steps * share(region)))) for region in SPLITS[split]]
        rate = repro.budget.training.learning_rate
        settings = {
            "seed_everything": 1000 + seed,
            "model.seed": 1000 + seed,
            "data.seed": 1000 + seed,
            "data.train": str(train),
            "data.val": str(test),
            "data.batch_size": repro.budget.training.batch_size,
            "data.val_batches": 1,
            "trainer.precision": repro.budget.training.precision,
            "trainer.enable_model_summary": False,
            **({"model.optimizer.init_args.lr": rate} if branching else {}),
            **changes,
        }
        known = path_of(recipe) if recipe in names() else Path(recipe)
        into = StageRecipe(stage.name, stage.resolution, None, stage.sampling, stage.aug_level)
        with redirect_stdout(io.StringIO()):
            grow(output, known, nodes, into, trunk, settings)
    return place


def _node(region: NoiseInterval, steps: int) -> GrowthNode:
    """A node whose averaged weights look back over the same share of its run, and which is saved four times."""
    every = steps // 4 if steps % 4 == 0 and steps >= 40 else steps
    overrides = {
        "trainer.callbacks.0.init_args.decay": 1 - min(0.5, 10 / steps),
        "trainer.callbacks.1.init_args.every_n_train_steps": every,
        "trainer.val_check_interval": steps,
    }
    return GrowthNode(region, steps, overrides=overrides)


def share(region: NoiseInterval) -> float:
    """The share of the training noise that a region is."""
    return float(sum(high - low for low, high in region.spans))


def noise(place: Path) -> LogNormal:
    """The training noise of a folder with one stage."""
    return model_stage(str(place), 0).noise
