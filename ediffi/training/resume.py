"""Resuming a run: where its last checkpoint is, and whether the recipe is the one that it started with."""

import logging
import os
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from ediffi.io import files
from ediffi.training import checkpoint as checkpoints
from ediffi.training import class_paths
from ediffi.training.finished_run import RECIPE

logger = logging.getLogger(__name__)
LAST = "last"
TOTAL_STEPS = ("model.lr_scheduler.init_args.total_steps", "model.init_args.lr_scheduler.init_args.total_steps")
"""Length of the learning rate's schedule; None is the length of the run."""
END = "trainer.max_steps"
FREE = {"data.val", "data.val_batches", "data.num_workers", "data.batch_size", "data.step_size"}
FREE |= {"data.max_skipped", "data.lanes", "data.read_ahead"}
FREE |= {"model.compile", "model.denoiser.init_args.gradient_checkpointing"}
"""Settings that may change when a run is resumed: they change neither the samples nor the loss of a step."""
FIXED = ("model.", "data.", "start.", "seed_everything", "trainer.precision", "trainer.gradient_clip_", "average")
"""Beginnings of the settings that may not."""
FIRST = ("start.", "model.interval")
"""Beginnings of those that are settled when a run begins: its first weights, and the noise that its expert is of."""
Recipe = Mapping[str, Any]


class SaveRecipe(SaveConfigCallback):
    """Writes the recipe of a run, with all defaults, into the run directory as `config.yaml`, and gives it to the
    loggers as hyper-parameters by dotted name.

    That is done after the first step: a recipe that is refused, even at the first batch, leaves a run as it is. The one
    that a run began with is kept beside it, where a setting has changed.
    """

    _text = ""  # until the training starts: `save_on_exception` may save before

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet: the checkpoint is not read, nor is the directory locked."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what changes from here on."""
        self._text = self.parser.dump(self.config, skip_none=False)
        self._step, place = trainer.global_step, Path(trainer.default_root_dir) / RECIPE
        self._changed: dict[str, tuple[Any, Any]] = {}
        if self._step and place.is_file() and trainer.is_global_zero:
            started = completed(self.parser, class_paths.read_recipe(place))
            self._changed = changes(started, yaml.safe_load(self._text))
        for key, (old, new) in self._changed.items():
            logger.info("from step %s on, %s is %s; it was %s", self._step, key, new, old)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Write it, once."""
        if trainer.is_global_zero and self._text and not self.already_saved:
            self.already_saved = True
            self.save_config(trainer, pl_module, "fit")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write it before the first checkpoint, which a signal may ask for in the first step."""
        self.on_train_batch_end(trainer, pl_module)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it, beside the one before it if a setting has changed."""
        place = Path(trainer.default_root_dir) / RECIPE
        place.parent.mkdir(parents=True, exist_ok=True)
        if self._changed:
            files.replace(place.with_stem(f"{place.stem}-to-step-{self._step}"), place.read_text(encoding="utf-8"))
        files.replace(place, self._text)
        for one in trainer.loggers:
            one.log_hyperparams(dict(_flat("", yaml.safe_load(self._text), lists=True)))
            if isinstance(one, TensorBoardLogger):  # it writes its file once, and has done so before training
                Path(one.log_dir, one.NAME_HPARAMS_FILE).unlink(missing_ok=True)
                one.save()


def completed(parser: LightningArgumentParser, recipe: Recipe) -> Recipe:
    """The recipe of a run with what module, data and first weights take, at the defaults where it does not say; as it
    is if it has what they do not take any more."""
    known = ("seed_everything", "model", "data", "start")
    try:
        parsed = parser.parse_object({key: recipe[key] for key in known if key in recipe})
    except ArgumentError:
        return recipe
    whole = yaml.safe_load(parser.dump(parsed, skip_none=False))
    return {**recipe, **{key: whole[key] for key in known if key in whole}}


def last_checkpoint(trainer: L.Trainer) -> Path | None:
    """A run's last checkpoint, or of those with a number in their name the newest; None if it has none.

    In the run directory, unless the recipe names another.
    """
    saver = trainer.checkpoint_callback
    if not isinstance(saver, ModelCheckpoint):
        return None
    saver.dirpath = saver.dirpath or os.path.join(trainer.default_root_dir, "checkpoints")
    last = Path(saver.dirpath) / (saver.CHECKPOINT_NAME_LAST + saver.FILE_EXTENSION)
    found = [] if last.is_file() else sorted(Path(saver.dirpath).glob(f"*{saver.FILE_EXTENSION}"))
    numbered = [path for path in found if path.is_file()]  # `last` may be a link to one that was not written to its end
    return last if last.is_file() else max(numbered, key=checkpoints.steps, default=None)


def find_checkpoint(
    trainer: L.Trainer, recipe: Recipe, ckpt_path: str | Path | None, parser: LightningArgumentParser
) -> tuple[str | None, int]:
    """The checkpoint that a run resumes from, and its step; None and 0 to start.

    `ckpt_path` is a path; "last"; or None: the last checkpoint if there is one, and the run started with this `recipe`.
    ValueError if it started with another one, or with "last" from other first weights; or if there is a run here, and
    the path is that of another one. The `parser` gives the recipe of a run by an earlier version the settings that it
    did not have.
    """
    last, folder = last_checkpoint(trainer), Path(trainer.default_root_dir)
    named = None if ckpt_path in (None, LAST) else Path(str(ckpt_path))
    if named is not None and (last is None or named.resolve() != last.resolve()):
        if last is not None and named.resolve().parent != last.resolve().parent:
            advice = "train into another directory, or leave --ckpt_path out to resume that run"
            raise ValueError(f"{folder} has a run of its own, at step {checkpoints.steps(last)}: {advice}")
        if last is not None:
            check_same_recipe(folder, recipe, parser)
        return str(ckpt_path), 0
    if last is None:
        if ckpt_path == LAST:
            raise FileNotFoundError(f"--ckpt_path {LAST}: there is no last checkpoint in {folder}")
        return None, 0
    step = checkpoints.steps(last)
    if ckpt_path is None:
        check_same_recipe(folder, recipe, parser)
    else:
        check_same_start(folder, recipe, parser, moved=named is not None)
    return str(last), step


def checkpoint_to_validate(trainer: L.Trainer, ckpt_path: str | Path | None, started: bool) -> str | None:
    """The checkpoint that is named, or the run's own, whose step is logged; None where the recipe's first weights are
    measured, as it has `started` from some. FileNotFoundError: there is nothing but random weights."""
    if ckpt_path is not None and ckpt_path != LAST:
        return str(ckpt_path)
    if (last := last_checkpoint(trainer)) is not None:
        if trainer.is_global_zero:
            logger.info("validating %s, at step %d", last, checkpoints.steps(last))
        return str(last)
    if ckpt_path == LAST or not started:
        advice = "name one with --ckpt_path"
        raise FileNotFoundError(f"there is no checkpoint in {trainer.default_root_dir} to validate: {advice}")
    return None


def check_same_recipe(folder: Path, recipe: Recipe, parser: LightningArgumentParser) -> None:
    """Make sure that the run in a directory started with this recipe; ValueError names the first changed setting."""
    advice = f"train into another directory, or pass --ckpt_path {LAST} to resume the run with this recipe"
    try:
        changed = changes(completed(parser, class_paths.read_recipe(folder / RECIPE)), recipe)
    except (OSError, ValueError):
        raise ValueError(f"{folder} has a checkpoint but no {RECIPE} with its recipe; {advice}") from None
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        key, (old, new) = next(iter(changed.items()))
        raise ValueError(f"{folder} has a run with {key} {old}, this recipe has {new}{more}; {advice}")


def check_same_start(folder: Path, recipe: Recipe, parser: LightningArgumentParser, moved: bool) -> None:
    """ValueError if what was settled at step 0 of a run changes, unless only its file of first weights has `moved`."""
    place = folder / RECIPE
    changed = changes(completed(parser, class_paths.read_recipe(place)), recipe) if place.is_file() else {}
    for key, (old, new) in changed.items():
        if key.startswith(FIRST) and not (moved and key.startswith("start.")):
            raise ValueError(f"{folder} has a run that began with {key} {old}, not {new}: train into another directory")


def changes(started: Recipe, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """By dotted name, what a run started with and what the recipe has now: None for what one of them does not have."""
    old, new = dict(settings(started)), dict(settings(recipe))
    pairs = {key: (old.get(key), new.get(key)) for key in (*old, *new)}
    if (END in old) != (END in new):
        del pairs[END]  # the schedule has another length, which is told already
    groups = {key[:end] for key in pairs for end in range(len(key)) if key[end] == "."}
    return {key: (one, two) for key, (one, two) in pairs.items() if one != two and key not in groups}


def settings(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """The settings that the weights depend on, by dotted name."""
    group = recipe.get("trainer")
    trainer = group if isinstance(group, Mapping) else {}  # the file may be damaged
    listed = trainer.get("callbacks")
    callbacks = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    averages = [one for one in callbacks if str(one.get("class_path")).endswith(class_paths.AVERAGES)]
    for key, given in _flat("", {**recipe, "averages": len(averages), "average": averages}, lists=True):
        value = recipe.get("seed_everything", 0) if given is None and key.endswith(".seed") else given
        if key.startswith(FIXED) and key not in FREE:
            yield key, value
            if key in TOTAL_STEPS and value is None:
                yield END, trainer.get("max_steps")


def _flat(prefix: str, content: Mapping[str, Any], lists: bool = False) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if lists and isinstance(value, list) and any(isinstance(one, dict) for one in value):
            yield from _flat(f"{prefix}{key}.", {str(place): one for place, one in enumerate(value)}, lists)
        elif isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{key}.", value, lists)
        else:
            yield f"{prefix}{key}", value
