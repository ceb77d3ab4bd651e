"""The parsers of the command line, found by asking each command for its own, which is then not run."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from types import ModuleType
from typing import Any
from unittest.mock import patch

from jsonargparse import ArgumentParser

from ediffi.cli import COMMANDS, UsageError, recipe_check
from ediffi.cli.parser import Command, call, command_parser, takes_words

LIGHTNING = ("fit", "validate")
"""Commands whose parser is Lightning's: their recipes are looked at, and the parser itself is left out."""
PLACES = {name: place for group in COMMANDS.values() for name, (place, _) in group.items()}


class Asked(BaseException):
    """What a command had parsed if it had not been stopped."""

    def __init__(self, parser: ArgumentParser, words: Sequence[str]) -> None:
        super().__init__(parser.prog)
        self.parser, self.words = parser, list(words)


def entry(command: str) -> tuple[ModuleType, Command | Sequence[Command]]:
    """The module of a command, and its function, or those of its group."""
    module, _, name = PLACES[command].partition(":")
    found = importlib.import_module(module)
    return found, getattr(found, name)


def asked(command: str, words: Sequence[str]) -> Asked | None:
    """What a command has parsed of its words; None if there is nothing to parse, as in `ediffi data`.

    Raises:
        UsageError: a group has no such command.
    """
    with _stopped():
        try:
            call(entry(command)[1], words, command)
        except Asked as found:
            return found
    return None


def parsers(command: str) -> Iterator[ArgumentParser]:
    """The parser of a command, if it has one of its own, and those of the commands in its group."""
    found = entry(command)[1]
    if not callable(found):
        yield from (command_parser(one, f"{command} {one.__name__.replace('_', '-')}") for one in found)
    elif not takes_words(found):
        yield command_parser(found, command)
    elif command == "evaluate":  # a command and a group
        from ediffi.cli import evaluate

        yield command_parser(evaluate.evaluate, command)
        yield from (command_parser(one, f"{command} {one.__name__}") for one in evaluate.COMMANDS)
    elif (own := asked(command, [])) is not None:
        yield own.parser


def check(words: Sequence[str]) -> None:
    """Parse a command line, and do nothing else.

    Args:
        words: those after `ediffi`.

    Raises:
        UsageError: there is no such command, or no such command in its group.
        ValueError: the parser does not take it.
        FileNotFoundError: a recipe is not there.
    """
    if words[0] in ("--version", "--help"):
        return
    if words[0] not in PLACES:
        raise UsageError(f"no command {words[0]!r}")
    if words[0] in LIGHTNING:
        recipe_check.check(words[1:])
        return
    found = asked(words[0], words[1:])
    if found is None:
        raise UsageError(f"{' '.join(words)!r} is not all of a command")
    found.parser.parse_args(found.words)


@contextmanager
def _stopped() -> Iterator[None]:
    """A parser that is to parse says so instead."""

    def stop(parser: ArgumentParser, args: Sequence[str] = (), **_: Any) -> None:
        raise Asked(parser, args)

    with patch.object(ArgumentParser, "parse_args", stop), redirect_stdout(StringIO()):  # a group says what it has
        yield
