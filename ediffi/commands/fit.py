"""`ediffi fit` and `ediffi validate`: a LightningCLI over one stage and its shards."""

import re
import warnings
from collections.abc import Callable
from typing import Any

from ediffi.cli import UsageError

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


def fit(argv: list[str]) -> int:
    """Train one stage: `ediffi fit --config recipes/toybox/base.yaml [--ckpt_path last.ckpt] [--model....]`."""
    return _lightning("fit", argv)


def validate(argv: list[str]) -> int:
    """Measure one stage: `ediffi validate --config recipes/toybox/base.yaml --ckpt_path last.ckpt`."""
    return _lightning("validate", argv)


def _lightning(subcommand: str, argv: list[str]) -> int:
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from ediffi.data.module import ShardData
    from ediffi.stages.diffusion_stage import DiffusionStage
    from ediffi.stages.start import Start

    class StageCLI(LightningCLI):
        """`--start.*` says what weights a run begins with."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(Start, "start")

        def before_fit(self) -> None:
            self.config_init.fit.start(self.model)

    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    cli_class: Callable[..., Any] = StageCLI
    try:
        cli_class(
            DiffusionStage,
            ShardData,
            args=[subcommand, *argv],
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            save_config_kwargs={"overwrite": True},
        )
    except Exception as error:
        if type(error).__name__ == "ArgumentError":
            raise UsageError(_one_sentence(str(error))) from None
        if type(error).__name__ == "MisconfigurationException":  # Lightning's word for settings that do not go together
            raise ValueError(str(error)) from None
        raise
    return 0


def _one_sentence(message: str) -> str:
    """The parser's indented lines as one sentence."""
    return re.sub(r"\s*\n\s*", " ", message).strip()
