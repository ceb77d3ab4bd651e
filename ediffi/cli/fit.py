"""`ediffi fit` and `ediffi validate`, a LightningCLI over one stage; `ediffi grow` and `ediffi compose`."""

import json
import logging
import pickle
import re
import sys
import warnings
from itertools import pairwise
from pathlib import Path

from ediffi.cli import recipe_check, registry
from ediffi.cli.parser import UsageError, run_recipe, with_advice
from ediffi.io.recipes import one_sentence
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
"""Where Lightning advertises its makers' services, as tips, and announces what it does at Ctrl-C, after we do."""
UNSAID = re.compile("Tip: |KeyboardInterrupt")

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
    """Compute the validation loss of a run's last checkpoint: `ediffi validate --config recipes/toybox/base.yaml`.

    `--ckpt_path` measures another one; without `--config`, by the recipe of the run that it is in.
    """
    _lightning("validate", [*_recipe_beside(argv), *argv])


def _options(argv: list[str]) -> dict[str, str]:
    """What stands behind the words of a command line, or in them behind a `=`."""
    return dict(pairwise(argv)) | dict(word.split("=", 1) for word in argv if "=" in word)


def _recipe_beside(argv: list[str]) -> list[str]:
    """The recipe of the run whose checkpoint is named, where the command line names no recipe."""
    options = _options(argv)
    named = any(word in options for word in ("--config", "-c", "--model", "--help", "-h"))
    if named or (place := options.get("--ckpt_path", "last")) == "last":
        return []
    if Path(place).is_dir() or (place.endswith(".ckpt") and "://" not in place and not Path(place).is_file()):
        raise FileNotFoundError(f"--ckpt_path must name a checkpoint, and {place} is no file")
    recipe = Path(place).parent.parent / "config.yaml"
    return ["--config", str(recipe)] if recipe.is_file() else []


def grow(argv: list[str]) -> None:
    """Run a growth schedule: `ediffi grow --config recipes/toybox/experts_base.yaml`.

    Finished runs are skipped and interrupted ones are resumed; `--dry-run` only lists them. A scheduler can run
    independent ones side by side: `--dry-run json` prints each with its command, and `--node LEVEL,INDEX` runs one.
    """
    from ediffi.training.growth import grow as growth

    argv = recipe_check.resolved(argv)
    words, dry_run = _dry_run([*argv, *recipe_check.node_recipe(argv)])
    made = run_recipe(growth.grow, [*words, *dry_run], "grow", grow.__doc__ or "", skip={"run_node"})
    if isinstance(made, list):
        nodes = [
            {**one, "command": ["ediffi", "grow", *words, *(["--node", one["node"]] * bool(one["node"]))]}
            for one in made
        ]
        print(json.dumps(nodes, indent=2))
    elif made is not None:
        print(made)


def _dry_run(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words of a command line without `--dry-run [json]`, and this one as the parser reads it."""
    words, found = list(argv), list[str]()
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name not in ("--dry-run", "--dry_run", "--plan"):
            continue
        if name == "--plan":
            print("--plan is called --dry-run now", file=sys.stderr)
        end = index + 1
        if not equals and end < len(argv) and not argv[end].startswith("-"):
            value, end = argv[end], end + 1
        if value not in ("", "true", "false", "json"):
            raise UsageError(f"--dry-run is given alone, or with json, got {value!r}")
        words, found = [*argv[:index], *argv[end:]], [f"--dry_run={value or 'true'}"]
    return words, found


def compose(argv: list[str]) -> None:
    """Write a cascade folder: `ediffi compose --config recipes/toybox/cascade.yaml --output DIR`."""
    from ediffi.training.growth import compose as composition

    argv = recipe_check.resolved(argv)
    print(run_recipe(composition.compose, argv, "compose", compose.__doc__ or ""))


def _lightning(subcommand: str, argv: list[str]) -> None:
    module, _, name = class_paths.current(_options(argv).get("--model.denoiser.help", "")).rpartition(".")
    if module in ("", recipe_check.DENOISERS) and name.isidentifier():
        registry.registry(name)  # denoisers are functions, and jsonargparse describes classes only
        return
    argv = recipe_check.resolved(argv)
    own_module = recipe_check.check(argv)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    logging.getLogger(LIGHTNING_LOG).addFilter(lambda record: not UNSAID.search(record.getMessage()))
    try:
        from ediffi.training import lightning_cli  # with Lightning, which is slow to import

        lightning_cli.run([subcommand, *(class_paths.current(word, warn=True) for word in argv)], own_module)
    except Exception as error:
        if (explained := _explained(error)) is None:
            raise
        raise explained from None


def _explained(error: Exception) -> Exception | None:
    """The error as one sentence for the user; None if it is not about the recipe, its files or other processes."""
    text = str(error)
    if type(error).__name__ == "ArgumentError":
        return UsageError(with_advice(one_sentence(error)))
    if isinstance(error, ValueError) and text.startswith("Does not validate"):  # what a class of the recipe is given
        return ValueError(one_sentence(error))
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
