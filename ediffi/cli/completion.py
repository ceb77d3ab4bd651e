"""`ediffi completion`: the script by which a shell completes commands, options and their values, written by shtab."""

import argparse
import importlib
import shlex
import typing
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ediffi.cli import recipe_check
from ediffi.cli.parser import Command, command_name, command_parser, takes_words
from ediffi.cli.recipes import names

SETTINGS = {
    "fit": recipe_check.GROUPS,
    "validate": recipe_check.GROUPS,
    "grow": {"": ("ediffi.training.growth.grow", "grow")},
    "compose": {"": ("ediffi.training.growth.compose", "compose")},
}
"""The functions and classes whose parameters are the settings of a recipe's command, by the group they are in."""
RECIPES = ("config", "recipe", "encoders")
HIDDEN = ("help", "print_shtab", "run_node")


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script by which a shell completes commands, options, the names of recipes, and files.

    ediffi completion bash > ~/.local/share/bash-completion/completions/ediffi

    ediffi completion zsh > "${fpath[1]}/_ediffi"

    ediffi completion fish > ~/.config/fish/completions/ediffi.fish

    Args:
        shell: bash, zsh or fish.
    """
    if find_spec("shtab") is None:
        raise ValueError("scripts of completion are written by shtab: pip install 'ediffi[completion]'")
    import shtab

    print(shtab.complete(whole_parser(), shell, preamble=_functions()[shell]))


def whole_parser() -> argparse.ArgumentParser:
    """All commands as one parser, for shtab; it parses nothing."""
    from ediffi.cli import COMMANDS

    whole = argparse.ArgumentParser("ediffi")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name, (place, text) in (one for group in COMMANDS.values() for one in group.items()):
        module = importlib.import_module(place.partition(":")[0])
        _add_command(commands.add_parser(name, help=text), name, module, getattr(module, place.partition(":")[2]))
    helped = commands.add_parser("help", help="describe a command")
    helped.add_argument("command", choices=[name for group in COMMANDS.values() for name in group])
    return whole


def _add_command(parser: argparse.ArgumentParser, name: str, module: Any, command: Any) -> None:
    if name in SETTINGS:
        _add_settings(parser, SETTINGS[name])
        return
    if not callable(command):
        group, alone = command, None
    elif takes_words(command):  # a command and a group, as `evaluate`
        group, alone = module.COMMANDS, getattr(module, name)
    else:
        group, alone = (), command
    if alone is not None:
        _add_options(parser, alone, name)
    inner = parser.add_subparsers() if group else None
    for one in group:
        assert inner is not None
        summary = (one.__doc__ or "").partition("\n")[0]
        _add_options(inner.add_parser(command_name(one), help=summary), one, f"{name} {command_name(one)}")


def _add_options(parser: argparse.ArgumentParser, command: Command, name: str) -> None:
    """The arguments of a typed function, as far as a shell needs to know them."""
    for action in command_parser(command, name)._actions:
        if action.dest in HIDDEN:
            continue
        hint = getattr(action, "_typehint", None) or action.type
        flag = type(action).__name__ == "ActionYesNo"
        settings: dict[str, Any] = {"help": (action.help or "").partition(". ")[0]}
        if flag:
            settings["action"] = "store_true"
        elif typing.get_origin(hint) is Literal:
            settings["choices"] = list(typing.get_args(hint))
        options = [option for option in action.option_strings if not option.endswith("+")]
        if not options:
            settings["nargs"] = action.nargs
        _complete(parser.add_argument(*(options or [action.dest]), **settings), action.dest, hint)


def _add_settings(parser: argparse.ArgumentParser, groups: Mapping[str, tuple[str, str]]) -> None:
    """The settings of a recipe as options, read from the source of what has them."""
    _complete(parser.add_argument("--config", help="a recipe"), "config", None)
    own = recipe_check.LIGHTNINGS if len(groups) > 1 else ()
    options = [name for name in own if name not in ("config", *groups)]
    for group, place in groups.items():
        found = sorted(recipe_check.parameters(*place) or ())
        options += [f"{group}.{name}" if group else name for name in found if name not in HIDDEN]
    for name in options:
        _complete(parser.add_argument(f"--{name.replace('dry_run', 'dry-run')}"), name, None)


def _complete(action: argparse.Action, name: str, hint: Any) -> None:
    if name in RECIPES:
        function = "_ediffi_recipes"
        action.complete = {"bash": function, "zsh": function, "fish": f"({function})"}  # type: ignore[attr-defined]
    elif name in ("output", "out", "model", "ckpt_path") or Path in (hint, *typing.get_args(hint)):
        import shtab

        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _functions() -> dict[str, str]:
    """The function of each shell that completes recipes: names of those that ship, and files."""
    shipped = shlex.quote(" ".join(names()))
    return {
        "bash": f'_ediffi_recipes() {{ compgen -W {shipped} -- "$1"; compgen -f -- "$1"; }}',
        "zsh": f"_ediffi_recipes() {{ compadd -- {' '.join(names())}; _files }}",
        "fish": f"function _ediffi_recipes; string split ' ' {shipped}; __fish_complete_path (commandline -ct); end",
    }
