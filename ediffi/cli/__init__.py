"""The command line: finds the command, imports only its module, and turns bad input into one clear line.

A command is a module of this package with `main(argv: list[str]) -> int`. Most are one typed function, whose
signature and docstring are its options: their `main` is `return run(function, argv)`.
"""

import argparse
import importlib
import inspect
import logging
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import ediffi

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Command = Callable[..., int | None]

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Pictures": {
        "sample": ("ediffi.cli.sample:main", "paint what a prompt says"),
        "edit": ("ediffi.cli.edit:edit", "paint on from a picture, or repaint a part of it"),
        "upscale": ("ediffi.cli.edit:upscale", "enlarge a picture with the super-resolution stages"),
        "analyze": ("ediffi.cli.analyze:main", "see where the words of a prompt go, and when"),
        "inspect": ("ediffi.cli.inspect:main", "print the settings stored in a picture"),
        "studio": ("ediffi.cli.studio:main", "open a page to paint on"),
    },
    "Data": {
        "embed": ("ediffi.cli.embed:main", "embed the captions and pictures of shards, once"),
        "data": ("ediffi.cli.data:main", "verify and filter shards, tell what is in them"),
    },
    "Training": {
        "recipes": ("ediffi.cli.recipes:main", "list, show or copy the recipes"),
        "fit": ("ediffi.cli.fit:fit", "train one stage as a recipe says"),
        "validate": ("ediffi.cli.fit:validate", "measure one stage on held-out data"),
        "grow": ("ediffi.cli.grow:main", "branch a stage into experts, by a schedule"),
        "compose": ("ediffi.cli.compose:main", "make a cascade of finished stages"),
        "plan": ("ediffi.cli.plan:main", "say what a recipe takes: memory, days, room for data"),
    },
    "Judging": {
        "evaluate": ("ediffi.cli.evaluate:main", "judge a model, or pictures, by a suite"),
    },
    "Sharing": {
        "publish": ("ediffi.cli.publish:main", "put a model on the Hub, with card and results"),
    },
    "Toybox": {
        "reproduce": ("ediffi.cli.reproduce:main", "make the paper's tables and figures again, in miniature"),
        "toybox": ("ediffi.cli.toybox:main", "write shards, train the encoders, score a cascade"),
    },
    "Parts": {
        "experts": ("ediffi.cli.experts:main", "list the experts of a model, with their noise"),
        "registry": ("ediffi.cli.registry:main", "list or describe parts and named models"),
        "params": ("ediffi.cli.params:main", "count the parameters a recipe builds"),
        "convert": ("ediffi.cli.convert:main", "write weights from elsewhere as safetensors"),
        "env": ("ediffi.cli.env:main", "say what is installed, for bug reports"),
    },
}
"""Group, command, then where its function stands and one line of help."""

SHORT_OPTIONS = {"output": "-o"}


class UsageError(ValueError):
    """The command line itself is wrong, whatever the files and models say."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 bad input, 2 a wrong command line, 130 interrupted.

    Args:
        argv: the arguments after the program's name; those of this process by default.
    """
    try:
        with _printed_logs():
            code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has seen enough, as in `ediffi registry | head`
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


class _Print(logging.Handler):
    """Prints messages: below WARNING on stdout, from WARNING up on stderr, as these are when a message comes."""

    def emit(self, record: logging.LogRecord) -> None:
        # Not in `try`, as other handlers do: a closed pipe ends the command, as it does for print.
        print(record.getMessage(), file=sys.stdout if record.levelno < logging.WARNING else sys.stderr, flush=True)


@contextmanager
def _printed_logs() -> Iterator[None]:
    """While a command runs, what the package logs is printed, once, whatever else has been set up for logging."""
    logger = logging.getLogger("ediffi")
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [_Print()], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def run(command: Command, argv: Sequence[str], name: str | None = None) -> int:
    """Call `command` with the arguments that its signature makes of `argv`.

    Parameters without a default, and those before `/`, are positional; the others are options: `num_images` becomes
    `--num-images`, a bool becomes a flag, a list may be one item; a positional list is several words. Types are
    checked, and the docstring is the help.

    Args:
        command: a function with annotations and a docstring in Google style.
        argv: the arguments after the command's name.
        name: what the command is called after `ediffi`; the function's own name by default.

    Raises:
        UsageError: `argv` does not fit the signature.
    """
    from jsonargparse import ArgumentError

    name = name or command.__name__.replace("_", "-")
    argv = _with_dashes(argv)
    try:
        values = command_parser(command, name).parse_args(argv)
    except ArgumentError as error:
        raise UsageError(f"{_one_sentence(error.message, command)} (see ediffi {name} --help)") from None
    call = inspect.signature(command).bind_partial()
    hints = typing.get_type_hints(command)
    call.arguments.update({key: _listed(values[key], hints[key]) for key in call.signature.parameters})
    if isinstance(model := call.arguments.get("model"), str):
        from ediffi.hub import finding

        finding.look(model)  # before anything heavy is imported
    return command(*call.args, **call.kwargs) or 0


def run_group(commands: Mapping[str, Command], argv: Sequence[str], name: str) -> int:
    """Run the one of `commands` that `argv` begins with, as in `ediffi recipes cp ...`.

    Raises:
        UsageError: there is no such command, or the rest of `argv` does not fit its signature.
    """
    if not argv or argv[0] in ("-h", "--help"):
        summaries = {key: (inspect.getdoc(command) or "").partition("\n")[0] for key, command in commands.items()}
        print(f"usage: ediffi {name} COMMAND [options]\n\n{_rows(summaries)}")
        return 0
    if argv[0] not in commands:
        raise _unknown(f"command of ediffi {name}", argv[0], commands)
    return run(commands[argv[0]], argv[1:], f"{name} {argv[0]}")


def command_parser(command: Command, name: str) -> "ArgumentParser":
    """The parser that the signature and docstring of `command` describe."""
    import docstring_parser
    from jsonargparse import ArgumentParser

    text = docstring_parser.parse(inspect.getdoc(command) or "", docstring_parser.DocstringStyle.GOOGLE)
    parser = ArgumentParser(
        prog=f"ediffi {name}",
        description="\n\n".join(filter(None, [text.short_description, text.long_description])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    helps = {parameter.arg_name: parameter.description or "" for parameter in text.params}
    hints = typing.get_type_hints(command)
    for parameter in inspect.signature(command).parameters.values():
        _add_argument(parser, parameter, hints[parameter.name], helps.get(parameter.name, ""))
    return parser


def _add_argument(parser: "ArgumentParser", parameter: inspect.Parameter, hint: Any, text: str) -> None:
    from jsonargparse import ActionYesNo

    required = parameter.default is parameter.empty
    text = " ".join(text.split()).replace("%", "%%")
    if not required and (parameter.default or parameter.default == 0) and parameter.default is not False:
        text += f" (default: {parameter.default})"
    settings: dict[str, Any] = {"help": text} if required else {"help": text, "default": parameter.default}
    if _is_positional(parameter):
        settings |= {"nargs": "+"} if _is_list(hint) else {} if required else {"nargs": "?"}
        kind = _item(hint) if _is_list(hint) else hint
        parser.add_argument(parameter.name, type=kind, metavar=parameter.name.upper(), **settings)
        return
    names = [SHORT_OPTIONS[parameter.name]] if parameter.name in SHORT_OPTIONS else []
    names.append(_option(parameter))
    if hint is bool:
        parser.add_argument(*names, action=ActionYesNo(no_prefix="no-"), **settings)
        return
    kinds = [_item(hint)] if _is_list(hint) else _kinds(hint)
    if not any(typing.get_origin(kind) for kind in kinds):
        settings["metavar"] = "|".join(kind.__name__.upper() for kind in kinds)
    parser.add_argument(*names, type=hint | _item(hint) if _is_list(hint) else hint, required=required, **settings)


def _is_positional(parameter: inspect.Parameter) -> bool:
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return True
    return parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty


def _option(parameter: inspect.Parameter) -> str:
    return "--" + parameter.name.replace("_", "-")


def _kinds(hint: Any) -> list[Any]:
    """The types a value may have: `int | None` is an int, since None is said by leaving the option out."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return [hint]


def _is_list(hint: Any) -> bool:
    return [typing.get_origin(kind) for kind in _kinds(hint)] == [list]


def _item(hint: Any) -> Any:
    return typing.get_args(_kinds(hint)[0])[0]


def _listed(value: Any, hint: Any) -> Any:
    """The one item of a list, as a list: `--steps 20` is `--steps [20]`."""
    return [value] if _is_list(hint) and not isinstance(value, list | None) else value


def _with_dashes(argv: Sequence[str]) -> list[str]:
    """`--num_images=3` as `--num-images=3`, up to a bare `--`."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    return [re.sub(r"^--[^=]+", lambda m: m[0].replace("_", "-"), word) for word in argv[:end]] + list(argv[end:])


def _one_sentence(message: str, command: Command) -> str:
    """What the parser says over several lines, in words of the command line."""
    parameters = inspect.signature(command).parameters
    wrong = re.match(r'Parser key "(\w+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL)
    if wrong and wrong[1] in parameters:
        parameter = parameters[wrong[1]]
        kinds = [_expected(kind) for kind in _kinds(typing.get_type_hints(command)[wrong[1]])]
        subject = parameter.name.upper() if _is_positional(parameter) else _option(parameter)
        return f"{subject} expects {' or '.join(kinds)}, got {wrong[2]!r}"
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    if unknown:
        options = [_option(parameter) for parameter in parameters.values() if not _is_positional(parameter)]
        return str(_unknown("option", unknown[1], options))
    several = re.match(r"unrecognized arguments: (.*)", message)
    return f"{several[1]!r} is too much; quote a text of several words" if several else message


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if _is_list(kind):
        item = _expected(_item(kind))
        return f"{item} or [{item},...]"
    return str(kind) if typing.get_origin(kind) else kind.__name__.lower()


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"ediffi {ediffi.__version__}")
        return 0
    places = {name: place for group in COMMANDS.values() for name, (place, _) in group.items()}
    if argv[0] not in places:
        raise _unknown("command", argv[0], places)
    module, _, function = places[argv[0]].partition(":")
    return int(getattr(importlib.import_module(module), function)(list(argv[1:])) or 0)


def _overview() -> str:
    summary = (ediffi.__doc__ or "").partition("\n")[0]
    groups = [
        f"{title}\n{_rows({name: text for name, (_, text) in group.items()})}" for title, group in COMMANDS.items()
    ]
    return "\n\n".join(
        [
            summary,
            "usage: ediffi COMMAND [options]",
            *groups,
            "`ediffi COMMAND --help` says more of one; `ediffi --version` tells the version.",
        ]
    )


def _rows(texts: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:<10} {text}" for name, text in texts.items())


def _unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    from ediffi.registry.core import UnknownNameError

    return UsageError(str(UnknownNameError.among(known, what, name)))


def _fail(message: str, code: int) -> int:
    print(f"ediffi: error: {' '.join(message.split())}", file=sys.stderr)
    return code
