"""The parser of recipes: YAML of bounded size, which may import only what is allowed.

A recipe names classes by their import path, and importing runs code. So it may name what is in `ediffi`, `torch` and
`lightning`, in the packages of installed plug-ins, and in those that the user lists in the environment variable
`EDIFFI_IMPORTS` ("my_callbacks,bitsandbytes"). The path is checked before anything is imported.
"""

import inspect
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ediffi.io import plain_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

LIBRARIES = ("torch", "lightning")
"""Of these a recipe may name classes only: a function such as `torch.hub.load` runs what it downloads."""
PLUGINS = ("ediffi.denoisers", "ediffi.encoders", "ediffi.samplers")
IMPORTS = "EDIFFI_IMPORTS"
MODE = "recipe"
DENIED = re.compile(r"Importing '([^']*)' is not allowed, denied by the .*? to allow it\.")


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


def one_sentence(error: Exception) -> str:
    """The parser's message, which has several lines and hints for programmers, as one sentence for the user."""
    allowed = f"allowed are ediffi, {', '.join(LIBRARIES)}, plug-ins, and the packages that {IMPORTS} lists"
    return " ".join(DENIED.sub(rf"a recipe may not import '\1': {allowed}", " ".join(str(error).split())).split())


def check_classes(settings: Mapping[str, Any]) -> None:
    """ValueError for a setting that names a function of `LIBRARIES`; to call before anything is built.

    jsonargparse takes any function where an optimiser or a schedule is expected, and calls it.
    """
    for name, value in _named(settings, ""):
        if isinstance(value, str) and value.partition(".")[0] not in ("ediffi", *LIBRARIES):
            continue  # packages that the user trusts
        found = pkgutil.resolve_name(value) if isinstance(value, str) else value
        package = str(getattr(found, "__module__", "")).partition(".")[0]
        if not inspect.isclass(found) and package in LIBRARIES:
            raise ValueError(f"{name} must name a class, got the function {found.__module__}.{found.__name__}")


def _named(content: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What settings name, by dotted name: values of `class_path`, and functions."""
    if isinstance(content, Mapping):
        if isinstance(content.get("class_path"), str):
            yield name, content["class_path"]
        for key, value in content.items():
            yield from _named(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _named(value, f"{name}.{index}")
    elif inspect.isroutine(content):
        yield name, content
