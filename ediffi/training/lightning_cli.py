"""The LightningCLI of `ediffi fit` and `ediffi validate`: the callbacks and the resuming that every run has."""

import logging
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from ediffi.data.module import ShardData
from ediffi.io import recipes
from ediffi.io.devices import check_processes, find_device, warn_if_emulated
from ediffi.training import class_paths, resume
from ediffi.training.callbacks.preemption import PreemptionCheckpoint
from ediffi.training.callbacks.run_directory import RunDirectory
from ediffi.training.callbacks.schedule_bar import ScheduleBar
from ediffi.training.callbacks.throughput import Throughput
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.start import InitialWeights

logger = logging.getLogger(__name__)
MODE = "training recipe"


class NoSeedError(ArgumentTypeError, ValueError):
    """No seed: the parser shows the message of the one where it is an option, and of the other in a recipe."""


def seed(value: Any) -> int:
    """Seed of weights, order, noise and dropout. Lightning's true would be chance, its false no seed of the weights."""
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) >= 2**32:
        raise NoSeedError(f"it must be a whole number from 0 to {2**32 - 1}, got {value!r}")
    return int(value)


class ModuleCLI(LightningCLI):
    """Logs to the run directory, shows progress, and resumes a run that has started."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit` and `validate`; each takes a parser, and Lightning's others have no command of ours."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate")}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take a number for `seed_everything`, as order, noise and dropout do."""
        parser.add_argument("--seed_everything", type=seed, default=self.seed_everything_default, help="seed of a run")

    def before_instantiate_classes(self) -> None:
        """Refuse functions of libraries in the place of classes, the groups that LightningCLI adds to ours, and more
        processes than the machine can run."""
        for name in ("optimizer", "lr_scheduler"):
            if self.config[str(self.subcommand)].get(name):
                raise ValueError(f"--{name} would replace model.{name} and its schedule: set model.{name}")
        settings = self.config[str(self.subcommand)].as_dict()
        recipes.check_classes(settings)
        groups = {"trainer": self.trainer_class, "data": self.datamodule_class, "model": self.model_class}
        for name, factory in groups.items():
            recipes.check_given(name, factory, settings[name])
        devices, accelerator = (str(settings["trainer"].get(name)) for name in ("devices", "accelerator"))
        if devices.isdecimal() and "cpu" in (accelerator, find_device().type):
            check_processes(int(devices), "cpu")

    def instantiate_classes(self) -> None:
        """Give module and data the seed of the run, `seed_everything`, unless the recipe gives them their own."""
        with recipes.building():
            super().instantiate_classes()
        for part in (self.model, self.datamodule):
            if getattr(part, "seed", 0) is None:
                part.seed = self.config[str(self.subcommand)].seed_everything

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """Log to the run directory, unless the recipe names a logger."""
        trainer = self.config[str(self.subcommand)].trainer
        if trainer.logger is None and trainer.default_root_dir is not None:
            options["logger"] = TensorBoardLogger(
                trainer.default_root_dir, name="", version="", default_hp_metric=False
            )
        if trainer.enable_model_summary is None:
            options["enable_model_summary"] = False  # `before_fit` tells the number of parameters
        callbacks: Sequence[L.Callback] = self.config_init[str(self.subcommand)].trainer.callbacks or ()
        own = trainer.enable_progress_bar is False or any(isinstance(one, ProgressBar) for one in callbacks)
        if self.subcommand == "fit" and not own:
            self.trainer_defaults["callbacks"].append(ScheduleBar())
        return super().instantiate_trainer(**options)

    def before_fit(self) -> None:
        """Tell the number of parameters, and of a precision that is slow here."""
        if self.trainer.is_global_zero:
            if str(self.trainer.precision).startswith("bf16"):
                warn_if_emulated(self.trainer.strategy.root_device, "--trainer.precision 32-true")
            trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            logger.info("%s parameters to train", f"{trained:,}")

    def fit(self, ckpt_path: Any = None, **options: Any) -> None:
        """Train, from the run's last checkpoint if it has one."""
        trainer, parser = self.trainer, self._parser("fit")
        recipe = yaml.safe_load(parser.dump(self.config.fit, skip_none=False))
        path, step = resume.find_checkpoint(trainer, recipe, ckpt_path, parser)
        done = path is not None and step >= trainer.max_steps > 0
        if step and trainer.is_global_zero:
            end = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
            logger.info("%s is at step %d%s: %s", path, step, end, "this run is done" if done else "resuming")
        if not done:
            with _interruptible():
                trainer.fit(ckpt_path=path, **options)

    def validate(self, ckpt_path: Any = None, **options: Any) -> None:
        """Measure a checkpoint: the run's own, unless another is named."""
        if self.trainer.limit_val_batches == 0:
            raise ValueError("trainer.limit_val_batches is 0, so that there is nothing to measure: leave it out")
        started = self._start()
        path = resume.checkpoint_to_validate(self.trainer, ckpt_path, started)
        with _interruptible():
            self.trainer.validate(ckpt_path=path, **options)

    def _start(self) -> bool:
        """Give the module its initial weights; False if these are random."""
        return False


class StageCLI(ModuleCLI):
    """Adds `--start.*`, the initial weights of a stage."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the group `start`."""
        parser.add_class_arguments(InitialWeights, "start")

    def before_fit(self) -> None:
        """Give the stage its initial weights."""
        self._start()
        super().before_fit()

    def _start(self) -> bool:
        start: InitialWeights = self.config_init[str(self.subcommand)].start
        start(self.model)
        return start.named


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C outside of the steps of a run is an interrupt, which Lightning makes an exit with code 1."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise


def run(argv: list[str], own_module: bool) -> None:
    """Run it over a stage; over any LightningModule, such as an encoder's, if the recipe names its class."""
    # A class path of an earlier version must be the current one before jsonargparse imports it.
    recipes.restrict()
    bounded = get_loader(recipes.MODE)
    set_loader(MODE, lambda text: bounded(class_paths.current(text, warn=True)), (yaml.YAMLError,))
    cli, module = (ModuleCLI, L.LightningModule) if own_module else (StageCLI, DiffusionStage)
    cli(
        module,
        ShardData,
        subclass_mode_model=own_module,
        args=argv,
        seed_everything_default=0,
        trainer_defaults={"callbacks": [RunDirectory(), PreemptionCheckpoint(), Throughput()]},  # beside the recipe's
        parser_kwargs={"exit_on_error": False, "parser_mode": MODE},
        save_config_callback=resume.SaveRecipe,
        save_config_kwargs={"save_to_log_dir": False},  # SaveRecipe writes it into the run directory
    )
