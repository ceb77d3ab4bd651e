"""Pages of the site that are generated from the code: recipes, commands and modules, as Markdown by path in docs/."""

import ast
import inspect
import re
import typing
from argparse import Action
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

import ediffi
from docs.command_lines import LIGHTNING, entry, parsers
from ediffi.cli import COMMANDS, recipe_check
from ediffi.cli import recipes as recipe_files
from ediffi.evaluation import suite
from ediffi.evaluation.scorers import scorers
from ediffi.registry import denoisers, encoders, samplers

REGISTRIES = (encoders.REGISTRY, denoisers.REGISTRY, samplers.REGISTRY, scorers)
"""All registries that installed packages add to."""

FOLDERS = ("registry", "evaluation", "ediffi")
"""Source folders. `ediffi` has links to the first two, so their modules are `ediffi.registry...`."""
PROGRAMS = ("ediffi/cli", "ediffi/studio", "ediffi/toybox", "ediffi/__main__.py")
"""Code behind commands, which has no page in the reference: the pages of the commands describe it."""
PUBLIC = """\
Names that other programs may use; CHANGELOG.md says when one of them changes. Everything else in
[the reference](api/index.md) is described, but may change. Command lines and their options are public too."""
COMMON_OPTIONS = ("help", "print_config", "print_shtab")
LIGHTNING_CLI = """\
This command is a `LightningCLI`. Later options override earlier ones. `class_path` and `init_args` set a part and its
arguments. `--trainer.callbacks+=` adds a callback. `--print_config` prints the resulting configuration; the run
directory stores it as `config.yaml`, which is a recipe too."""
SETTINGS = {
    "model": "the network and its training",
    "data": "shards, batches and image augmentation",
    "start": "the initial weights",
}


def module_of(path: Path) -> str:
    """Import name of a file, by its path in the checkout: `registry/types.py` is `ediffi.registry.types`."""
    parts = path.with_suffix("").parts
    return ".".join(parts if parts[0] == "ediffi" else ("ediffi", *parts)).removesuffix(".__init__")


def sources(root: Path) -> Iterator[Path]:
    """The files that have a place in the reference, by their path in the checkout."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if not (place := path.relative_to(root)).as_posix().startswith(PROGRAMS):
                yield place


def recipes() -> str:
    """The tables of recipes and suites, with the first sentence of each."""
    lines = ["# Recipes", "", "YAML files for training. Each begins with the commands that run it.", ""]
    lines += ["    ediffi recipes show toybox/base", "    ediffi recipes cp toybox/base my-base.yaml", ""]
    names = recipe_files.names()
    for folder in dict.fromkeys(name.rpartition("/")[0] for name in names):
        rows = [(f"`{n}`", _opening(recipe_files.path_of(n))) for n in names if n.rpartition("/")[0] == folder]
        lines += [f"## {folder}", "", *_table(("recipe", "description"), rows), ""]
    suites = [(f"`{name}`", suite.read_suite(name).about) for name in suite.shipped()]
    lines += ["## Suites of `ediffi evaluate`", "", *_table(("suite", "description"), suites)]
    return "\n".join(lines) + "\n"


def public() -> str:
    """What other programs may rely on: the names of `ediffi`, the registries, and the groups of entry points."""
    names = [name for name in ediffi.__all__ if not name.startswith("__")]
    rows = [(f"[`{name}`][{_place(name)}]", _first_paragraph(getattr(ediffi, name))) for name in names]
    lines = ["# What is public", "", PUBLIC, "", *_table(("`from ediffi import`", "what it is"), rows), ""]
    for registry in REGISTRIES:
        parts = [(f"`{name}`", _first_paragraph(registry.factory(name))) for name in registry.names()]
        lines += [
            f"## {registry.kind}",
            "",
            f"Your own: the entry-point group `ediffi.{registry.kind}` ([Compose](compose.md)).",
            "",
        ]
        lines += [*_table(("name", "what it is"), parts), ""]
    return "\n".join(lines) + "\n"


def _place(name: str) -> str:
    """The name of an object in the reference."""
    found = getattr(ediffi, name)
    return found.__name__ if inspect.ismodule(found) else f"{found.__module__}.{found.__qualname__}"


def _first_paragraph(found: object) -> str:
    return (inspect.getdoc(found) or "").partition("\n\n")[0]


def commands() -> dict[str, str]:
    """A page with all commands, and one for each."""
    lines = ["# Command line", "", "The texts of all options are those of `ediffi COMMAND --help`.", ""]
    for group, of in COMMANDS.items():
        rows = [(f"[`ediffi {name}`]({name}.md)", text) for name, (_, text) in of.items()]
        lines += [f"## {group}", "", *_table(("command", "purpose"), rows), ""]
    lines += ["## Exit codes", "", "0: success. 1: wrong input. 2: wrong command line. 130: interrupted."]
    names = [name for of in COMMANDS.values() for name in of]
    return {"cli/index.md": "\n".join(lines) + "\n", **{f"cli/{name}.md": _command(name) for name in names}}


def modules(root: Path) -> dict[str, str]:
    """A page for each package with its public modules, from their docstrings."""
    pages: dict[str, list[str]] = {}
    about: dict[str, str] = {}
    for path in sources(root):
        package = module_of(path.parent / "__init__.py")
        if path.name == "__init__.py":
            docstring = ast.get_docstring(ast.parse((root / path).read_text(encoding="utf-8"))) or ""
            about[package] = docstring.partition("\n")[0]
        pages.setdefault(package, []).append(module_of(path))
    rows = [(f"[`{package}`]({package}.md)", about[package]) for package in pages]
    index = ["# Python", "", *_table(("package", "contents"), rows), ""]
    made = {f"api/{package}.md": _module_page(package, names) for package, names in pages.items()}
    return {"api/index.md": "\n".join(index), **made}


def _module_page(package: str, names: list[str]) -> str:
    return f"# {package}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def _command(name: str) -> str:
    if name in LIGHTNING:
        return _lightning(name)
    module, main = entry(name)
    found = list(parsers(name))
    if len(found) == 1 and found[0].prog == f"ediffi {name}":
        return "\n".join([f"# ediffi {name}", "", *_parser(found[0])])
    lines = [f"# ediffi {name}", "", inspect.getdoc(main if callable(main) else module) or "", ""]
    for parser in found:
        lines += [f"## {parser.prog}", "", *_parser(parser)]
    return "\n".join(lines)


def _parser(parser: ArgumentParser) -> Iterator[str]:
    yield from (inspect.cleandoc(parser.description or ""), "")
    actions = [action for action in parser._actions if action.dest.rpartition(".")[2] not in COMMON_OPTIONS]
    words = [_positional(action) for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    required = [f"{action.option_strings[-1]} {_kind(action)}" for action in options if action.required]
    if any(action.dest == "config" and not action.required for action in options):
        required = ["--config RECIPE"]  # a recipe can set the rest
    rest = ["[options]"] if len(options) > len(required) else []
    yield from (f"    {' '.join([parser.prog, *words, *required, *rest])}", "")
    rows = [(_named(action), action.help or "") for action in actions]
    yield from [*_table(("argument", "meaning"), rows), ""] if rows else []


def _positional(action: Action) -> str:
    name = str(action.metavar or action.dest).upper()
    return {"?": f"[{name}]", "+": f"{name}..."}.get(str(action.nargs), name)


def _named(action: Action) -> str:
    names = [name for name in action.option_strings if not name.endswith("+")] or [_positional(action).strip("[].")]
    kind = _kind(action) if action.option_strings else ""
    return ", ".join(f"`{name}`" for name in names) + (f" `{kind}`" if kind else "")


def _kind(action: Action) -> str:
    """The type of an option, as in its help; empty for a flag."""
    if action.nargs == 0 or type(action).__name__ == "ActionYesNo":
        return ""
    if action.metavar is not None:
        return str(action.metavar)
    return _type_name(getattr(action, "_typehint", None) or action.type or str)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "|".join(map(str, typing.get_args(hint)))
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if kinds and typing.get_origin(hint) is not None and not hasattr(hint, "__name__"):
        return "|".join(_type_name(kind) for kind in kinds)
    return getattr(hint, "__name__", str(hint)).upper()


def _lightning(name: str) -> str:
    lines = [f"# ediffi {name}", "", inspect.getdoc(entry(name)[1]) or "", ""]
    lines += [f"    ediffi {name} --config RECIPE [--config ANOTHER] [--model....] [--data....] [--trainer....]", ""]
    lines += [LIGHTNING_CLI, ""]
    rows = []
    for group, text in SETTINGS.items():
        place = recipe_check.GROUPS[group]
        taken = ", ".join(f"`{one}`" for one in sorted(recipe_check.parameters(*place) or ()))
        rows.append((f"`--{group}.…`", f"{text}, [`{place[1]}`][{'.'.join(place)}]: {taken}"))
    rows += [
        ("`--trainer.…`", "Lightning's Trainer: `max_steps`, `accelerator`, `devices`, `precision`, `callbacks`, ..."),
        ("`--seed_everything`", "seed of weights, data order and noise"),
        ("`--ckpt_path`", "a checkpoint to resume from, or `last`"),
    ]
    return "\n".join([*lines, *_table(("setting", "meaning"), rows)]) + "\n"


def _opening(recipe: Path) -> str:
    """The first paragraph of the comment at the top."""
    words = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        words.append(line.removeprefix("# "))
    return " ".join(words)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    for first, second in rows:
        yield f"| {_cell(first)} | {_cell(second)} |"


def _cell(text: str) -> str:
    """Text in one cell, with the marks of Markdown and HTML escaped outside of code."""
    plain = " ".join(text.split()).replace("%%", "%")
    escapes = {"|": "\\|", "<": "&lt;", "*": "\\*"}
    return re.sub(r"`[^`]*`|[|<*]", lambda found: escapes.get(found[0], found[0]), plain)
