"""The same command again: where a run stands, and whether this recipe is the one it began with."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback

from ediffi.training import checkpoint as checkpoints

CONFIG = "config.yaml"
LAST = "last"
TOTAL_STEPS = "model.lr_scheduler.init_args.total_steps"
"""How long the learning rate's schedule is; None is as long as the run."""
FREE = (
    "data.val",
    "data.val_batches",
    "data.num_workers",
    "data.batch_size",
    "data.step_size",
    "model.compile",
    "model.denoiser.init_args.gradient_checkpointing",
)
"""Settings that may change from start to start: no sample is trained on otherwise for them."""
HELD = ("model.", "data.", "start.", "seed_everything", "trainer.precision", "trainer.gradient_clip_", "average")
"""Settings that may not, and what they begin with."""


class SaveRecipe(SaveConfigCallback):
    """Writes the recipe of a run, with all defaults, into its folder as `config.yaml`, whole or not at all."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it when a run begins; measuring a checkpoint leaves it alone."""
        if stage != "fit":
            return
        place = Path(trainer.default_root_dir) / CONFIG
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_suffix(".tmp")
        beside.write_text(self.parser.dump(self.config, skip_none=False))
        os.replace(beside, place)


def last_checkpoint(trainer: L.Trainer) -> Path | None:
    """Where the last checkpoint of a run is, or will be; in the run's folder unless the recipe says other."""
    saver = trainer.checkpoint_callback
    if not isinstance(saver, ModelCheckpoint) or not saver.save_last:
        return None
    saver.dirpath = saver.dirpath or os.path.join(trainer.default_root_dir, "checkpoints")
    return Path(saver.dirpath) / (saver.CHECKPOINT_NAME_LAST + saver.FILE_EXTENSION)


def where_to_go_on(trainer: L.Trainer, recipe: Mapping[str, Any], asked: str | Path | None) -> tuple[str | None, int]:
    """The checkpoint that a run goes on from, and its step; None and 0 to begin.

    Args:
        trainer: of the run.
        recipe: its settings, with all defaults.
        asked: what the command line asks for: a path; "last"; or None, for the run's last checkpoint if there is one,
            provided that the recipe is that of the run.

    Raises:
        FileNotFoundError: "last" is asked for, and there is none.
        ValueError: the folder holds a run of another recipe, or its checkpoint is broken.
    """
    last = last_checkpoint(trainer)
    if asked is not None and asked != LAST:
        return str(asked), 0
    if last is None or not last.is_file():
        if asked == LAST:
            raise FileNotFoundError(f"there is no last checkpoint to go on from in {trainer.default_root_dir}")
        return None, 0
    if asked is None:
        check_same_recipe(Path(trainer.default_root_dir), recipe)
    return str(last), checkpoints.read(last).expert.steps


def check_same_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Make sure that the run in a folder is of this recipe.

    Raises:
        ValueError: it is of another, or of none that is known.
    """
    config = folder / CONFIG
    try:
        begun = yaml.safe_load(config.read_text())
    except (OSError, yaml.YAMLError):
        begun = None
    if not isinstance(begun, dict):
        raise ValueError(
            f"{folder} holds a checkpoint but no {CONFIG} that tells of which recipe; say --ckpt_path {LAST} to go on "
            "from it, or train into another folder"
        )
    old, new = dict(settings(begun)), dict(settings(recipe))
    changed = [key for key, value in old.items() if key in new and new[key] != value]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"{folder} holds a run with {key} {old[key]}, this recipe has {new[key]}{more}; train into another folder, "
            f"or say --ckpt_path {LAST} to go on from it with this recipe"
        )


def settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What decides the weights that a run ends with, by dotted name."""
    trainer = recipe.get("trainer") or {}
    average = [c.get("init_args") for c in trainer.get("callbacks") or [] if "Averag" in c.get("class_path", "")]
    for key, value in _flat("", {**recipe, "average": average}):
        if key.startswith(HELD) and key not in FREE:
            yield key, value
            if key == TOTAL_STEPS and value is None:
                yield "trainer.max_steps", trainer.get("max_steps")


def _flat(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
