"""The parser of recipes: YAML of bounded size, which may import only what is allowed.

A recipe names classes by their import path, and importing runs code. So it may name what is in `ediffi`, `torch` and
`lightning`, in the packages of installed plug-ins, and in those that the user lists in the environment variable
`EDIFFI_IMPORTS` ("my_callbacks,bitsandbytes"). The path is checked before anything is imported.
"""

import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ediffi.io import plain_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

LIBRARIES = ("torch", "lightning")
"""Of these a recipe may name classes only: a function such as `torch.hub.load` runs what it downloads."""
PLUGINS = ("ediffi.denoisers", "ediffi.encoders", "ediffi.samplers")
IMPORTS = "EDIFFI_IMPORTS"
BESIDE = "EDIFFI_BESIDE"
"""The environment variable by which processes that this one starts know the folders of `import_beside`."""
MODE = "recipe"
ABSENT = re.compile(r"given class_path '([\w.]+)':\s+No module named '([\w.]+)'")
OPTIONAL = re.compile(
    r"Does not validate against any of the Union subtypes .*? Errors: - (.*?) - Expected a <class 'NoneType'>.*"
)
DENIED = re.compile(r"Importing '([^']*)' is not allowed, denied by the .*? to allow it\.")
HINTS = (
    (re.compile(r" - Not a valid subclass of \w+ Subclass types expect one of: .*"), ""),
    (re.compile(r"(?:- )?Expected a path but \S+ either not accessible or invalid - "), ""),
    (re.compile(r"Type typing\.Callable\[.*\] expects a function or a callable class: (.*?)\. Got value: .*"), r"\1"),
    (re.compile(r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: - "), ""),
)
"""What the parser says to programmers, of the types that it has tried, and what is left of it."""


def recipe_parser(**settings: Any) -> "ArgumentParser":
    """An ArgumentParser, which raises instead of exiting, of YAML in which nothing else can be imported."""
    from jsonargparse import ArgumentParser

    restrict()
    return ArgumentParser(exit_on_error=False, parser_mode=MODE, **settings)


def restrict() -> None:
    """Bound the YAML of the parser mode `MODE`, and what any parser of this process imports."""
    import yaml
    from jsonargparse import get_loader, set_loader, set_parsing_settings

    def bounded(text: str) -> Any:
        plain_yaml.check(text)
        return get_loader("yaml")(text)

    set_loader(MODE, bounded, (yaml.YAMLError,))
    own = [name.strip() for name in os.environ.get(IMPORTS, "").split(",") if name.strip()]
    plugins = {point.module.partition(".")[0] for group in PLUGINS for point in entry_points(group=group)}
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=["ediffi", *LIBRARIES, *sorted(plugins), *own],
        instantiate_subclass_spec_in_any=False,
    )


def import_beside(*recipes: Path) -> None:
    """Let this process, and those that it starts, import what stands beside recipes, as far as a recipe may."""
    known = [folder for folder in os.environ.get(BESIDE, "").split(os.pathsep) if folder]
    folders = dict.fromkeys([*known, *(str(recipe.resolve().parent) for recipe in recipes)])
    sys.path += [folder for folder in folders if folder not in sys.path]  # last, so that a file there hides no package
    os.environ[BESIDE] = os.pathsep.join(folders)


LACKING = re.compile(r"the following arguments are required: (.*)")
SUBCOMMAND = re.compile(r"\b(fit|validate|test|predict)\.")
"""What the parser says of settings that neither a recipe nor an option gives, and its prefix of their names."""


def one_sentence(error: Exception) -> str:
    """The parser's message, which has several lines and hints for programmers, as one sentence for the user."""
    if lacking := LACKING.fullmatch(str(error).strip()):
        return f"missing: {SUBCOMMAND.sub('', lacking[1])}"
    if absent := ABSENT.search(str(error)):
        where = "it is looked for beside the recipe that is named, and where Python looks"
        return f"{absent[1]} cannot be imported, no module {absent[2]}: {where}"
    if denied := DENIED.search(str(error)):
        allowed = f"allowed are ediffi, {', '.join(LIBRARIES)}, plug-ins, and the packages that {IMPORTS} lists"
        return f"a recipe may not import {denied[1]!r}: {allowed}"
    told = OPTIONAL.sub(r"\1", " ".join(str(error).split()))  # of a class that may also be left out
    for pattern, left in HINTS:
        told = pattern.sub(left, told)
    return told


@contextmanager
def building() -> Iterator[None]:
    """Errors in a library's classes, which take other arguments than a recipe gives them, as a ValueError. Errors in
    other code are bugs, ours or the user's, and show their stack trace."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        place = str(frame.f_globals.get("__name__"))
        if place.partition(".")[0] not in (*LIBRARIES, "jsonargparse"):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"a setting of the recipe does not fit its class: {type(error).__name__}: {reason}") from error


def check_classes(settings: Mapping[str, Any]) -> None:
    """ValueError for a setting that names a function of `LIBRARIES`, or is null where its class takes no None; to call
    before anything is built.

    jsonargparse takes any function where an optimiser or a schedule is expected, and calls it; and null for anything.
    """
    for name, value, arguments in _named(settings, ""):
        if isinstance(value, str) and value.partition(".")[0] not in ("ediffi", *LIBRARIES):
            continue  # packages that the user trusts
        found = pkgutil.resolve_name(value) if isinstance(value, str) else value
        package = str(getattr(found, "__module__", "")).partition(".")[0]
        if not inspect.isclass(found) and package in LIBRARIES:
            raise ValueError(f"{name} must name a class, got the function {found.__module__}.{found.__name__}")
        check_given(name, found, arguments)


def check_given(name: str, factory: Any, arguments: Any) -> None:
    """ValueError unless the settings of a class or factory are arguments by name, null only where it takes None."""
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{name} must be settings by name, got {str(arguments)[:60]!r}")
    try:
        hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError, AttributeError):  # names that only type checkers import
        return
    for key in [key for key, value in arguments.items() if value is None and key in hints]:
        default = inspect.signature(factory).parameters[key].default
        if default is not None and hints[key] is not Any and type(None) not in get_args(hints[key]):
            raise ValueError(f"{name}.{key} must have a value, got null")


def _named(content: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """What settings name, by dotted name: values of `class_path` with their arguments, and functions."""
    if isinstance(content, Mapping):
        if isinstance(content.get("class_path"), str):
            yield name, content["class_path"], content.get("init_args") or {}
        for key, value in content.items():
            yield from _named(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _named(value, f"{name}.{index}")
    elif inspect.isroutine(content):
        yield name, content, {}
