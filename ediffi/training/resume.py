"""Resuming a run: where its last checkpoint is, and whether the recipe is the one that it started with."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback

from ediffi.io import files
from ediffi.training import checkpoint as checkpoints
from ediffi.training import class_paths
from ediffi.training.finished_run import RECIPE

LAST = "last"
TOTAL_STEPS = ("model.lr_scheduler.init_args.total_steps", "model.init_args.lr_scheduler.init_args.total_steps")
"""Length of the learning rate's schedule; None is the length of the run."""
FREE = {"data.val", "data.val_batches", "data.num_workers", "data.batch_size", "data.step_size", "data.max_skipped"}
FREE |= {"model.compile", "model.denoiser.init_args.gradient_checkpointing"}
"""Settings that may change when a run is resumed: they change neither the samples nor the loss of a step."""
FIXED = ("model.", "data.", "start.", "seed_everything", "trainer.precision", "trainer.gradient_clip_", "average")
"""Beginnings of the settings that may not."""


class SaveRecipe(SaveConfigCallback):
    """Writes the recipe of a run, with all defaults, into the run directory as `config.yaml`."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it before training; validation leaves it as it is."""
        if stage == "fit":
            place = Path(trainer.default_root_dir) / RECIPE
            place.parent.mkdir(parents=True, exist_ok=True)
            files.replace(place, self.parser.dump(self.config, skip_none=False))


def last_checkpoint(trainer: L.Trainer) -> Path | None:
    """The path of a run's last checkpoint, there or not; in the run directory, unless the recipe names another."""
    saver = trainer.checkpoint_callback
    if not isinstance(saver, ModelCheckpoint) or not saver.save_last:
        return None
    saver.dirpath = saver.dirpath or os.path.join(trainer.default_root_dir, "checkpoints")
    return Path(saver.dirpath) / (saver.CHECKPOINT_NAME_LAST + saver.FILE_EXTENSION)


def find_checkpoint(
    trainer: L.Trainer, recipe: Mapping[str, Any], ckpt_path: str | Path | None
) -> tuple[str | None, int]:
    """The checkpoint that a run resumes from, and its step; None and 0 to start.

    `ckpt_path` is a path; "last"; or None: the last checkpoint if there is one, and the run started with this `recipe`.
    ValueError if it started with another one.
    """
    last = last_checkpoint(trainer)
    if ckpt_path is not None and ckpt_path != LAST:
        return str(ckpt_path), 0
    if last is None or not last.is_file():
        if ckpt_path == LAST:
            raise FileNotFoundError(f"--ckpt_path {LAST}: there is no last checkpoint in {trainer.default_root_dir}")
        return None, 0
    if ckpt_path is None:
        check_same_recipe(Path(trainer.default_root_dir), recipe)
    return str(last), checkpoints.steps(last)


def check_same_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Make sure that the run in a directory started with this recipe; ValueError names the first changed setting."""
    advice = f"train into another directory, or pass --ckpt_path {LAST} to resume the run with this recipe"
    try:
        started = class_paths.read_recipe(folder / RECIPE)
    except (OSError, ValueError):
        raise ValueError(f"{folder} has a checkpoint but no {RECIPE} with its recipe; {advice}") from None
    old, new = dict(settings(started)), dict(settings(recipe))
    if changed := [key for key, value in old.items() if key in new and new[key] != value]:
        key, more = changed[0], f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(f"{folder} has a run with {key} {old[key]}, this recipe has {new[key]}{more}; {advice}")


def settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that the weights depend on, by dotted name."""
    trainer = recipe.get("trainer") or {}
    callbacks = trainer.get("callbacks") or []
    average = [c.get("init_args") for c in callbacks if c.get("class_path", "").endswith(class_paths.AVERAGES)]
    for key, given in _flat("", {**recipe, "average": average}):
        value = recipe.get("seed_everything", 0) if given is None and key.endswith(".seed") else given
        if key.startswith(FIXED) and key not in FREE:
            yield key, value
            if key in TOTAL_STEPS and value is None:
                yield "trainer.max_steps", trainer.get("max_steps")


def _flat(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
