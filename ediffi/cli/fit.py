"""`ediffi fit` and `ediffi validate`: a LightningCLI over one stage and its shards."""

import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import yaml

from ediffi.cli import recipe_check
from ediffi.cli.parser import UsageError

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

PROCESS_DIED = re.compile(
    r"DataLoader worker \(pid[^\n]*|(ConnectionResetError|BrokenPipeError|EOFError|ConnectionRefusedError): [^\n]*"
    r"|Connection (closed|reset) by peer[^\n]*"
)
"""What a loader process, or another one of the group, leaves behind when it is killed."""


def fit(argv: list[str]) -> int:
    """Train one stage: `ediffi fit --config recipes/toybox/base.yaml [--model....]`.

    The same command again goes on from the last checkpoint of the run's folder (`trainer.default_root_dir`), after a
    kill too. A folder with a run of another recipe is refused; `--ckpt_path last` or a file says to go on all the same.
    """
    return _lightning("fit", argv)


def validate(argv: list[str]) -> int:
    """Measure one stage: `ediffi validate --config recipes/toybox/base.yaml --ckpt_path last.ckpt`."""
    return _lightning("validate", argv)


def _lightning(subcommand: str, argv: list[str]) -> int:
    recipe_check.look(argv)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    try:
        _stage_cli()([subcommand, *argv])
    except Exception as error:
        if type(error).__name__ == "ArgumentError":
            raise UsageError(_one_sentence(str(error))) from None
        if type(error).__name__ == "MisconfigurationException":  # Lightning's word for settings that do not go together
            raise ValueError(str(error)) from None
        if isinstance(error, pickle.UnpicklingError):  # of a checkpoint that --ckpt_path names
            from ediffi.io import pickles

            raise ValueError(pickles.refusal("the checkpoint to go on from", error)) from None
        if died := PROCESS_DIED.search(f"{type(error).__name__}: {error}"):
            raise ChildProcessError(
                f"a process of this run has died ({died[0]}); the same command goes on from the last checkpoint"
            ) from None
        if isinstance(error, ValueError | OSError) and str(error).startswith("Caught "):
            raise ValueError(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
        raise
    return 0


def _stage_cli() -> Callable[[list[str]], Any]:
    """Lightning's command line over a stage, with what makes every run survive."""
    import lightning as L
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.loggers import TensorBoardLogger

    from ediffi.data.module import ShardData
    from ediffi.training import resume
    from ediffi.training.callbacks.preemption import PreemptionCheckpoint
    from ediffi.training.callbacks.run_directory import RunDirectory
    from ediffi.training.callbacks.throughput import Throughput
    from ediffi.training.lightning_module import DiffusionStage
    from ediffi.training.start import InitialWeights

    class StageCLI(LightningCLI):
        """`--start.*` says what weights a run begins with; a run that has begun goes on."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(InitialWeights, "start")

        def instantiate_trainer(self, **options: Any) -> L.Trainer:
            """Curves go where the run is, unless the recipe says what else logs."""
            trainer = self.config[str(self.subcommand)].trainer
            if trainer.logger is None and trainer.default_root_dir is not None:
                options["logger"] = TensorBoardLogger(trainer.default_root_dir, name="", version="")
            return super().instantiate_trainer(**options)

        def before_fit(self) -> None:
            self.config_init.fit.start(self.model)

        def fit(self, ckpt_path: Any = None, **options: Any) -> None:
            trainer, parser = self.trainer, self._parser("fit")
            recipe = yaml.safe_load(parser.dump(self.config.fit, skip_none=False))
            path, step = resume.find_checkpoint(trainer, recipe, ckpt_path)
            say = print if trainer.is_global_zero else (lambda _: None)
            if path is not None and step >= trainer.max_steps > 0:
                say(f"{path} is at step {step} of {trainer.max_steps}: this run is done")
                return
            if step:
                say(f"going on from {path}, step {step} of {trainer.max_steps}")
            trainer.fit(ckpt_path=path, **options)

    def run(argv: list[str]) -> Any:
        cli: Callable[..., Any] = StageCLI
        return cli(
            DiffusionStage,
            ShardData,
            args=argv,
            seed_everything_default=0,
            trainer_defaults={"callbacks": [RunDirectory(), PreemptionCheckpoint(), Throughput()]},
            parser_kwargs={"exit_on_error": False},
            save_config_callback=resume.SaveRecipe,
            save_config_kwargs={"save_to_log_dir": False},
        )

    return run


def _one_sentence(message: str) -> str:
    """The parser's indented lines as one sentence."""
    return re.sub(r"\s*\n\s*", " ", message).strip()
