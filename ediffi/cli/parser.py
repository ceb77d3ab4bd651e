"""A function as a command: its signature gives the arguments and options, its docstring the help."""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Command = Callable[..., int | None]
SHARED = {
    "model": 'the shipped "toybox", a folder, or ORG/REPO of the Hub.',
    "num_inference_steps": "steps of the base stage, or [one,for,each,stage].",
    "guidance_scale": "w of uncond + w (cond - uncond), 1 is off; of the base stage, or [one,for,each,stage].",
    "sampler": "a registered sampler, or a preset (paper-steps, paper-nfe).",
    "negative_prompt": "what the image should not show.",
    "seed": "image k of a run is a function of (seed, k).",
    "device": "auto (a CUDA GPU if there is one, else cpu), cpu, cuda, cuda:1, ...",
    "dtype": "of the networks; bfloat16, or on a GPU float16, needs half the memory; a setting: it changes the bits.",
    "compile": "compile the networks first, which takes minutes and makes each step faster; a setting, as dtype.",
    "devices": "processes on this machine, each with its own device; the result is the same. Not with torchrun.",
    "num_nodes": "machines; run the command on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK. Not with torchrun.",
    "engine": "processes, on this machine or num_nodes; or ray: `devices` workers of a Ray cluster, which starts again "
    "what is killed (extra ray). The result is the same.",
    "address": "of the Ray cluster: auto, local (started for this command), or HOST:PORT.",
    "expert_residency": "resident keeps all experts in memory, stream only the one in use; the images are the same.",
    "shards": "files or URLs with braces, as in 'in-{0000..0999}.tar', or folders of .tar files.",
}
"""The help of parameters that several commands have, where a docstring does not say otherwise."""


class UsageError(ValueError):
    """The command line itself is wrong, whatever the files and models contain."""


def call(command: Command | Sequence[Command], argv: Sequence[str], name: str) -> int:
    """Run a command of `ediffi.cli.COMMANDS` with the words after its name; UsageError if they do not fit it.

    It is a typed function, see `run`; several of them, which `argv[0]` chooses from by name; or a function with the one
    parameter `argv`, which parses the words itself.
    """
    if callable(command):
        return (command(list(argv)) or 0) if takes_words(command) else run(command, argv, name)
    commands = {command_name(one): one for one in command}
    if not argv or argv[0] in ("-h", "--help"):
        summaries = {key: (inspect.getdoc(one) or "").partition("\n")[0] for key, one in commands.items()}
        print(f"usage: ediffi {name} COMMAND [options]\n\n{table(summaries)}")
        return 0
    if argv[0] not in commands:
        raise unknown(f"command of ediffi {name}", argv[0], commands)
    return run(commands[argv[0]], argv[1:], f"{name} {argv[0]}")


def command_name(command: Command) -> str:
    """The word that calls a function: `prompt_switch` is prompt-switch, and `import_` is import."""
    return command.__name__.rstrip("_").replace("_", "-")


def takes_words(command: Command) -> bool:
    """Whether a command parses its words itself."""
    return list(inspect.signature(command).parameters) == ["argv"]


def run(command: Command, argv: Sequence[str], name: str) -> int:
    """Call `command` with the arguments that its signature makes of `argv`; returns the exit code.

    Parameters without a default, and those before `/`, are positional; the others are options: `num_images` becomes
    `--num-images`. A bool becomes a flag, a list may be one item, and a positional list is several words. Types are
    checked (UsageError), and a docstring in Google style is the help.
    """
    from jsonargparse import ArgumentError

    end = list(argv).index("--") if "--" in argv else len(argv)
    # --num_images is --num-images too, as in the YAML files and in Python; after "--" nothing is an option.
    dashed = [re.sub(r"^--[^=]+", lambda found: found[0].replace("_", "-"), word) for word in argv[:end]]
    try:
        values = command_parser(command, name).parse_args([*dashed, *argv[end:]])
    except ArgumentError as error:
        raise UsageError(f"{_one_sentence(error.message, command)} (see ediffi {name} --help)") from None
    hints, bound = typing.get_type_hints(command), inspect.signature(command).bind_partial()
    for key in bound.signature.parameters:
        value = values[key]
        bound.arguments[key] = [value] if _item(hints[key]) and not isinstance(value, list | None) else value
        if isinstance(value, Path) and key != "output" and value.exists() and not (value.is_file() or value.is_dir()):
            raise UsageError(f"{value} is neither a file nor a folder, but a pipe or a device, which may have no end")
    if isinstance(model := bound.arguments.get("model"), str):
        from ediffi.hub import finding

        finding.find(model)  # before anything heavy is imported
    return command(*bound.args, **bound.kwargs) or 0


def run_recipe(
    function: Callable[..., Any], argv: Sequence[str], name: str, text: str, skip: set[str | int] | None = None
) -> Any:
    """Call `function` with the arguments that `--config RECIPE` and the options after it give; returns its result.

    The settings of the recipe are the parameters of `function` that are not in `skip`; `text` is the command's help.
    """
    from jsonargparse import ArgumentError

    from ediffi.io.recipes import building, one_sentence, recipe_parser

    parser = recipe_parser(prog=f"ediffi {name}", description=text)
    parser.add_argument("--config", action="config", help="a recipe")
    parser.add_function_arguments(function, skip=skip)
    try:
        values = parser.parse_args(list(argv))
    except ArgumentError as error:
        if wrong := _REFUSED.search(str(error)):
            name = next(filter(None, wrong.groups()))
            raise unknown("setting", name, _settings(function) - (skip or set()) | {"config", "help"}) from None
        raise UsageError(with_advice(one_sentence(error))) from None
    with building():
        arguments = parser.instantiate(values).as_dict()
    arguments.pop("config")
    return function(**arguments)


def with_advice(sentence: str) -> str:
    """A sentence about settings; of missing ones, with what gives them."""
    advice = "; a recipe has them (--config RECIPE, ediffi recipes ls), or each is given as --NAME VALUE"
    return sentence + advice if sentence.startswith("missing: ") else sentence


_REFUSED = re.compile(r"unrecognized arguments: --([\w-]+)|Option '(\w+)' is not accepted|not accept option '([\w.]+)'")
"""The parser's messages of a name that it does not know."""


def _settings(function: Callable[..., Any]) -> set[str]:
    """The names of what a recipe of `function` may set, at any depth: of parameters, and of the dataclasses in them."""
    hints = typing.get_type_hints(function)
    names, kinds = set(inspect.signature(function).parameters), list(hints.values())
    while kinds:
        kind = kinds.pop()
        kinds += typing.get_args(kind)
        if dataclasses.is_dataclass(kind):
            names |= {field.name for field in dataclasses.fields(kind)}
            kinds += typing.get_type_hints(kind).values()
    return names


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
        allow_abbrev=False,  # an abbreviation in a script would break with the next option that begins alike
    )
    helps = SHARED | {parameter.arg_name: parameter.description or "" for parameter in text.params}
    hints = typing.get_type_hints(command)
    for parameter in inspect.signature(command).parameters.values():
        _add_argument(parser, parameter, hints[parameter.name], helps.get(parameter.name, ""))
    return parser


def _add_argument(parser: "ArgumentParser", parameter: inspect.Parameter, hint: Any, text: str) -> None:
    from jsonargparse import ActionYesNo

    hint = str if _kinds(hint) == [str] else hint  # `str | None` would be read as YAML: a prompt "null", or "&a"
    item, required = _item(hint), parameter.default is parameter.empty
    text = " ".join(text.split()).replace("%", "%%")
    if not required and (parameter.default or parameter.default == 0) and parameter.default is not False:
        text += f" (default: {parameter.default})"
    settings: dict[str, Any] = {"help": text} if required else {"help": text, "default": parameter.default}
    if _is_positional(parameter):
        settings |= {"nargs": "+"} if item else {} if required else {"nargs": "?"}
        parser.add_argument(parameter.name, type=item or hint, metavar=parameter.name.upper(), **settings)
        return
    names = ["-o", "--output"] if parameter.name == "output" else [_option(parameter)]
    if hint is bool:
        parser.add_argument(*names, action=ActionYesNo(no_prefix="no-"), **settings)
        return
    kinds = [item] if item else _kinds(hint)
    if not any(typing.get_origin(kind) for kind in kinds):
        settings["metavar"] = "|".join(kind.__name__.upper() for kind in kinds)
    parser.add_argument(*names, type=hint | item if item else hint, required=required, **settings)


def _is_positional(parameter: inspect.Parameter) -> bool:
    required = parameter.default is parameter.empty
    return parameter.kind is parameter.POSITIONAL_ONLY or (parameter.kind is not parameter.KEYWORD_ONLY and required)


def _option(parameter: inspect.Parameter) -> str:
    return "--" + parameter.name.replace("_", "-")


def _kinds(hint: Any) -> list[Any]:
    """The types a value may have; None is left out, since it means that the option is not given."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return [hint]


def _item(hint: Any) -> Any:
    """The T of `list[T]` and `list[T] | None`; None for another type."""
    kinds = _kinds(hint)
    return typing.get_args(kinds[0])[0] if [typing.get_origin(kind) for kind in kinds] == [list] else None


def _one_sentence(message: str, command: Command) -> str:
    """The parser's message, which has several lines and its own words, as one sentence about the command line."""
    from ediffi.io.recipes import LACKING

    parameters = inspect.signature(command).parameters
    wrong = re.match(r'Parser key "(\w+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL)
    if wrong and wrong[1] in parameters:
        parameter = parameters[wrong[1]]
        kinds = [_expected(kind) for kind in _kinds(typing.get_type_hints(command)[wrong[1]])]
        return f"{_named(parameter)} expects {' or '.join(kinds)}, got {wrong[2]!r}"
    if lacking := LACKING.fullmatch(message):
        names = ", ".join(_named(parameters[name]) if name in parameters else name for name in lacking[1].split(", "))
        return f"missing: {names}"
    extra = re.match(r"unrecognized arguments: (?P<all>(?P<option>--[^\s=]+)?.*)", message)
    if extra and extra["option"]:
        options = [_option(parameter) for parameter in parameters.values() if not _is_positional(parameter)]
        return str(unknown("option", extra["option"], options))
    return f"unexpected argument {extra['all']!r}; quote a text of several words" if extra else message


def _named(parameter: inspect.Parameter) -> str:
    """A parameter as the help of its command names it."""
    return parameter.name.upper() if _is_positional(parameter) else _option(parameter)


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if item := _item(kind):
        return f"{_expected(item)} or [{_expected(item)},...]"
    return str(kind) if typing.get_origin(kind) else kind.__name__.lower()


def check_positive(**numbers: int | None) -> None:
    """Raise ValueError unless options, by their names, are at least 1 where they are given."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {number}")


def table(texts: Mapping[str, str]) -> str:
    """Names and their texts, a line each."""
    return "\n".join(f"  {name:<10} {text}" for name, text in texts.items())


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, their cells aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for `name`, which no `what` ("command") has; it lists the near names."""
    from ediffi.registry.core import UnknownNameError

    return UsageError(str(UnknownNameError.among(known, what, name)))
