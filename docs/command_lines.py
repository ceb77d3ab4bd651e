"""The parsers of all commands. A command runs only up to the point where it would parse its arguments."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from types import ModuleType
from typing import Any
from unittest.mock import patch

from jsonargparse import ArgumentParser

from ediffi.cli import COMMANDS, UsageError, recipe_check
from ediffi.cli.parser import Command, call, command_name, command_parser, takes_words

LIGHTNING = ("fit", "validate")
"""Commands with Lightning's parser. Their recipes are checked; the parser itself is not built."""
PLACES = {name: place for group in COMMANDS.values() for name, (place, _) in group.items()}


class ParserCalled(BaseException):
    """Stops a command at its call of a parser, with the parser and its arguments."""

    def __init__(self, parser: ArgumentParser, words: Sequence[str]) -> None:
        super().__init__(parser.prog)
        self.parser, self.words = parser, list(words)


def entry(command: str) -> tuple[ModuleType, Command | Sequence[Command]]:
    """The module of a command, and its function, or those of its group."""
    module, _, name = PLACES[command].partition(":")
    found = importlib.import_module(module)
    return found, getattr(found, name)


def parser_call(command: str, words: Sequence[str]) -> ParserCalled | None:
    """The parser that a command calls, and its arguments; None if it calls none, as `ediffi data` without a command.

    Raises:
        UsageError: the group has no such command.
    """
    with _stopped():
        try:
            call(entry(command)[1], words, command)
        except ParserCalled as found:
            return found
    return None


def parsers(command: str) -> Iterator[ArgumentParser]:
    """The parser of a command and of the commands in its group."""
    found = entry(command)[1]
    if not callable(found):
        yield from (command_parser(one, f"{command} {command_name(one)}") for one in found)
    elif not takes_words(found):
        yield command_parser(found, command)
    elif command == "evaluate":  # a command and a group
        from ediffi.cli import evaluate

        yield command_parser(evaluate.evaluate, command)
        yield from (command_parser(one, f"{command} {one.__name__}") for one in evaluate.COMMANDS)
    elif (own := parser_call(command, [])) is not None:
        yield own.parser


def check(words: Sequence[str]) -> None:
    """Parse a command line without running it; `words` are those after `ediffi`.

    Raises:
        UsageError: there is no such command.
        ValueError: an argument is wrong.
        FileNotFoundError: a recipe does not exist.
    """
    if words[0] in ("--version", "--help"):
        return
    if words[0] not in PLACES:
        raise UsageError(f"no command {words[0]!r}")
    if words[0] in LIGHTNING:
        recipe_check.check(recipe_check.resolved(words[1:]))
        return
    found = parser_call(words[0], words[1:])
    if found is None:
        raise UsageError(f"{' '.join(words)!r} is not a complete command")
    found.parser.parse_args(found.words)


@contextmanager
def _stopped() -> Iterator[None]:
    """`parse_args` raises `ParserCalled`."""

    def stop(parser: ArgumentParser, args: Sequence[str] = (), **_: Any) -> None:
        raise ParserCalled(parser, args)

    with patch.object(ArgumentParser, "parse_args", stop), redirect_stdout(StringIO()):  # a group prints its commands
        yield
