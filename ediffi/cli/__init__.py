"""The command line: imports only the module of the command, and turns bad input into one clear line.

A command is a function of its module, whose signature and docstring are its options; see `ediffi.cli.parser`.
"""

import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ediffi
from ediffi.cli.parser import UsageError, call, table, unknown

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Images": {
        "sample": ("ediffi.cli.images:sample", "generate images from a prompt, or from a file of prompts"),
        "edit": ("ediffi.cli.images:edit", "change an image by a prompt, or inpaint a part of it"),
        "upscale": ("ediffi.cli.images:upscale", "enlarge an image with the super-resolution stages"),
        "analyze": ("ediffi.cli.analyze:COMMANDS", "plot cross-attention maps and the effect of a second prompt"),
        "inspect": ("ediffi.cli.images:inspect", "print the settings stored in an image"),
        "studio": ("ediffi.cli.studio:studio", "open the web page to paint with words"),
    },
    "Data": {
        "embed": ("ediffi.cli.embed:embed", "compute the text and image embeddings of shards, once"),
        "data": ("ediffi.cli.data:COMMANDS", "import, verify, describe, index and filter shards"),
    },
    "Training": {
        "recipes": ("ediffi.cli.recipes:COMMANDS", "list, show or copy the recipes"),
        "fit": ("ediffi.cli.fit:fit", "train one stage by a recipe"),
        "validate": ("ediffi.cli.fit:validate", "compute the validation loss of one stage"),
        "grow": ("ediffi.cli.fit:grow", "branch a stage into experts, by a schedule"),
        "compose": ("ediffi.cli.fit:compose", "make a cascade of finished stages"),
        "plan": ("ediffi.cli.plan:plan", "estimate memory, time and storage of a recipe"),
    },
    "Evaluation": {
        "evaluate": ("ediffi.cli.evaluate:main", "evaluate a model, or images, by a suite"),
    },
    "Sharing": {
        "publish": ("ediffi.cli.publish:publish", "upload a model to the Hub, with model card and results"),
    },
    "Toybox": {
        "reproduce": ("ediffi.cli.reproduce:reproduce", "make the paper's tables and figures again, in miniature"),
        "toybox": ("ediffi.cli.toybox:COMMANDS", "write shards, score a cascade"),
    },
    "Parts": {
        "experts": ("ediffi.cli.registry:experts", "list the experts of a model and their noise intervals"),
        "registry": ("ediffi.cli.registry:registry", "list or describe parts and named models"),
        "params": ("ediffi.cli.plan:params", "count the parameters that a recipe builds"),
        "convert": ("ediffi.cli.convert:convert", "convert weights of other code to safetensors"),
        "completion": ("ediffi.cli.completion:completion", "complete commands and options in bash, zsh or fish"),
        "env": ("ediffi.cli.env:env", "print what is installed, for bug reports"),
    },
}
"""By group and name: where the command is (module:attribute, see `ediffi.cli.parser.call`), and one line of help."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 bad input, 2 a wrong command line, 130 interrupted."""
    try:
        with _printed_logs():
            code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has closed the pipe, as in `ediffi registry | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 1)
    except ValueError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _dispatch(argv: Sequence[str]) -> int:
    if list(argv) in ([], ["-h"], ["--help"], ["help"]):
        print(_overview())
        return 0
    if argv[0] == "help":  # `ediffi help data import` is `ediffi data import --help`
        argv = [*argv[1:], "--help"]
    if argv[0] == "--version":
        print(f"ediffi {ediffi.__version__}")
        return 0
    places = {name: place for group in COMMANDS.values() for name, (place, _) in group.items()}
    if argv[0] not in places:
        raise unknown("command", argv[0], [*places, "help"])
    module, _, attribute = places[argv[0]].partition(":")
    return call(getattr(importlib.import_module(module), attribute), argv[1:], argv[0])


def _overview() -> str:
    summary = (ediffi.__doc__ or "").partition("\n")[0]
    groups = [f"{group}\n{table({name: text for name, (_, text) in of.items()})}" for group, of in COMMANDS.items()]
    last = "`ediffi help COMMAND` describes one command; `ediffi --version` prints the version."
    return "\n\n".join([summary, "usage: ediffi COMMAND [options]", *groups, last])


def _fail(message: str, code: int) -> int:
    print(f"ediffi: error: {' '.join(message.split())}", file=sys.stderr)
    return code


class _Print(logging.Handler):
    """Prints messages: below WARNING to stdout, from WARNING up to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        # No `try`, unlike other handlers: a closed pipe must end the command, as it does for print.
        print(record.getMessage(), file=sys.stdout if record.levelno < logging.WARNING else sys.stderr, flush=True)


@contextmanager
def _printed_logs() -> Iterator[None]:
    """Print what the package logs while a command runs: once, whatever else the process has set up for logging."""
    logger = logging.getLogger("ediffi")
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [_Print()], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
