"""`ediffi fit` and `ediffi validate`, a LightningCLI over one stage; `ediffi grow` and `ediffi compose`."""

import logging
import pickle
import re
import warnings
from collections.abc import Sequence
from typing import Any

import yaml

from ediffi.cli import recipe_check
from ediffi.cli.parser import UsageError, run_recipe
from ediffi.training import class_paths

QUIET = (
    r".*args parameter is intended to run from within Python.*",
    r".*does not have many workers.*",
    r".*`IterableDataset` has `__len__` defined.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*resuming from a checkpoint that ended before the epoch ended.*",
    r".*The dirpath has changed.*",
    r".*loading a checkpoint outside the 'fit' stage.*",
    r".*not supported by the model summary.*",
)

LIGHTNING_LOG = "lightning.pytorch.utilities.rank_zero"
"""Where Lightning advertises its makers' services, as tips."""

PROCESS_DIED = re.compile(
    r"DataLoader worker \(pid[^\n]*|(ConnectionResetError|BrokenPipeError|EOFError|ConnectionRefusedError): [^\n]*"
    r"|Connection (closed|reset) by peer[^\n]*"
)
"""The messages that other processes of a run get when one of them, or a loader process, is killed."""


def fit(argv: list[str]) -> None:
    """Train one stage, or an encoder: `ediffi fit --config recipes/toybox/base.yaml [--model....]`.

    The same command again resumes from the last checkpoint in the run directory (`trainer.default_root_dir`), also
    after a kill. A directory with a run of another recipe is refused; `--ckpt_path last`, or a file, resumes anyway.
    """
    _lightning("fit", argv)


def validate(argv: list[str]) -> None:
    """Compute the validation loss: `ediffi validate --config recipes/toybox/base.yaml --ckpt_path last.ckpt`."""
    _lightning("validate", argv)


def grow(argv: list[str]) -> None:
    """Run a growth schedule: `ediffi grow --config recipes/toybox/experts_base.yaml`.

    Finished runs are skipped and interrupted ones are resumed; `--plan true` only lists them.
    """
    from ediffi.training.growth import grow as growth

    if (stage := run_recipe(growth.grow, argv, "grow", grow.__doc__ or "", skip={"run_node"})) is not None:
        print(stage)


def compose(argv: list[str]) -> None:
    """Write a cascade folder: `ediffi compose --config recipes/toybox/cascade.yaml --output DIR`."""
    from ediffi.training.growth import compose as composition

    print(run_recipe(composition.compose, argv, "compose", compose.__doc__ or ""))


def _lightning(subcommand: str, argv: list[str]) -> None:
    own_module = recipe_check.check(argv)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    logging.getLogger(LIGHTNING_LOG).addFilter(lambda record: "Tip: " not in record.getMessage())
    try:
        _run_lightning_cli([subcommand, *(class_paths.current(word, warn=True) for word in argv)], own_module)
    except Exception as error:
        if (explained := _explained(error)) is None:
            raise
        raise explained from None


def _explained(error: Exception) -> Exception | None:
    """The error as one sentence for the user; None if it is not about the recipe, its files or other processes."""
    text = str(error)
    if type(error).__name__ == "ArgumentError":
        return UsageError(" ".join(text.split()))
    if type(error).__name__ == "MisconfigurationException":  # Lightning: settings that exclude each other
        return ValueError(text)
    if isinstance(error, pickle.UnpicklingError):  # the checkpoint of --ckpt_path
        from ediffi.io import pickles

        return ValueError(pickles.refusal("the checkpoint to resume from", error))
    if died := PROCESS_DIED.search(f"{type(error).__name__}: {text}"):
        again = "the same command resumes from the last checkpoint"
        return ChildProcessError(f"a process of this run has died ({died[0]}); {again}")
    if isinstance(error, ValueError | OSError) and text.startswith("Caught "):  # raised in a loader process
        return ValueError(text.strip().splitlines()[-1].partition(": ")[2])
    return None


def _run_lightning_cli(argv: list[str], own_module: bool) -> None:
    """LightningCLI over a stage, with the callbacks and the resuming that every run has; over any LightningModule, such
    as an encoder's, if the recipe names the class of its model (`own_module`)."""
    import lightning as L
    from jsonargparse import get_loader, set_loader
    from lightning.pytorch.callbacks import ProgressBar
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.loggers import TensorBoardLogger

    from ediffi.data.module import ShardData
    from ediffi.training import resume
    from ediffi.training.callbacks.preemption import PreemptionCheckpoint
    from ediffi.training.callbacks.run_directory import RunDirectory
    from ediffi.training.callbacks.schedule_bar import ScheduleBar
    from ediffi.training.callbacks.throughput import Throughput
    from ediffi.training.lightning_module import DiffusionStage
    from ediffi.training.start import InitialWeights

    class StageCLI(LightningCLI):
        """Adds `--start.*`, the initial weights of a run, and resumes a run that has started."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            if not own_module:
                parser.add_class_arguments(InitialWeights, "start")

        def instantiate_trainer(self, **options: Any) -> L.Trainer:
            """Log to the run directory, unless the recipe names a logger."""
            trainer = self.config[str(self.subcommand)].trainer
            if trainer.logger is None and trainer.default_root_dir is not None:
                options["logger"] = TensorBoardLogger(trainer.default_root_dir, name="", version="")
            if trainer.enable_model_summary is None:
                options["enable_model_summary"] = False  # `before_fit` tells the number of parameters
            own = trainer.enable_progress_bar is False or any(isinstance(c, ProgressBar) for c in self._callbacks())
            if self.subcommand == "fit" and not own:
                self.trainer_defaults["callbacks"].append(ScheduleBar())
            return super().instantiate_trainer(**options)

        def before_fit(self) -> None:
            if not own_module:
                self.config_init.fit.start(self.model)
            if self.trainer.is_global_zero:
                print(f"{sum(p.numel() for p in self.model.parameters() if p.requires_grad):,} parameters to train")

        def _callbacks(self) -> Sequence[L.Callback]:
            return self.config_init[str(self.subcommand)].trainer.callbacks or ()

        def fit(self, ckpt_path: Any = None, **options: Any) -> None:
            trainer, parser = self.trainer, self._parser("fit")
            recipe = yaml.safe_load(parser.dump(self.config.fit, skip_none=False))
            path, step = resume.find_checkpoint(trainer, recipe, ckpt_path)
            done = path is not None and step >= trainer.max_steps > 0
            if step and trainer.is_global_zero:
                print(f"{path} is at step {step} of {trainer.max_steps}: {'this run is done' if done else 'resuming'}")
            if not done:
                trainer.fit(ckpt_path=path, **options)

    # A class path of an earlier version must be the current one before jsonargparse imports it.
    set_loader("recipe", lambda text: get_loader("yaml")(class_paths.current(text, warn=True)), (yaml.YAMLError,))
    StageCLI(
        L.LightningModule if own_module else DiffusionStage,
        ShardData,
        subclass_mode_model=own_module,
        args=argv,
        seed_everything_default=0,
        trainer_defaults={"callbacks": [RunDirectory(), PreemptionCheckpoint(), Throughput()]},  # beside the recipe's
        parser_kwargs={"exit_on_error": False, "parser_mode": "recipe"},
        save_config_callback=resume.SaveRecipe,
        save_config_kwargs={"save_to_log_dir": False},  # SaveRecipe writes it into the run directory
    )
