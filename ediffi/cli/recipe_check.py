"""A first look at the recipes of a command line, before torch and Lightning are imported, which takes seconds.

It sees what is wrong for certain: a file that is not there, that is no YAML, or that says a key twice; a setting that
the classes have no parameter for. Their parameters are read from their source, not imported. What it cannot be certain
of it leaves to the parser, which reads everything again and checks the values too.
"""

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ediffi.cli.parser import UsageError
from ediffi.io import plain_yaml
from ediffi.registry.core import UnknownNameError

LIGHTNINGS = ("config", "seed_everything", "trainer", "model", "data", "optimizer", "lr_scheduler", "ckpt_path")
TOP = (*LIGHTNINGS, "weights_only", "verbose", "start")
"""The settings of `ediffi fit` and `ediffi validate`; a test compares them with the parser's."""
GROUPS = {
    "model": ("ediffi.training.lightning_module", "DiffusionStage"),
    "data": ("ediffi.data.module", "ShardData"),
    "start": ("ediffi.training.start", "InitialWeights"),
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
}
"""Where the classes stand whose parameters are the settings of a group."""
MENUS = ("ediffi.registry.denoisers", "ediffi.registry.encoders")
CLASS, ARGUMENTS = "class_path", "init_args"


def look(argv: Sequence[str]) -> None:
    """Look at each `--config` of a command line.

    Raises:
        FileNotFoundError: a recipe is not there.
        UsageError: it is no YAML, or says what no class has a parameter for; the message lists the near names.
    """
    for place in _configs(argv):
        path = Path(place)
        if path.is_file():
            _look_at(path)
        elif not set(place) & set(":{\n") and place:  # a text with one of them may be settings itself
            raise FileNotFoundError(f"no recipe {place}: ediffi recipes ls lists those that ship, and cp copies one")


def _configs(argv: Sequence[str]) -> Iterator[str]:
    for index, word in enumerate(argv):
        option, _, value = word.partition("=")
        if option in ("--config", "-c"):
            yield from [value] if value else argv[index + 1 : index + 2]


def _look_at(path: Path) -> None:
    try:
        content = plain_yaml.load(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not a recipe: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a recipe: it holds {type(content).__name__}, not settings by name")
    _check(path, content, frozenset(TOP), "")
    for group, place in GROUPS.items():
        if isinstance(content.get(group), dict):
            _check(path, content[group], parameters(*place), f"{group}.")
    model = content.get("model")
    if isinstance(model, dict) and isinstance(model.get("denoiser"), dict):
        _look_at_part(path, model["denoiser"], "model.denoiser.")


def _look_at_part(path: Path, part: dict[Any, Any], prefix: str) -> None:
    """A part of ours, named by its path: there has to be one of that name that takes these arguments."""
    module, _, name = str(part.get(CLASS)).rpartition(".")
    if module not in MENUS:
        return
    known = names(module)
    if known is not None and name not in known:
        raise UsageError(f"{path}: {UnknownNameError.among(known, f'part in {module}', name)}")
    if isinstance(part.get(ARGUMENTS), dict):
        _check(path, part[ARGUMENTS], parameters(module, name), f"{prefix}{ARGUMENTS}.")


def _check(path: Path, content: dict[Any, Any], known: frozenset[str] | None, prefix: str) -> None:
    if known is None:
        return
    for key in content:
        if isinstance(key, str) and key.isidentifier() and key[0] != "_" and key not in known:
            near = UnknownNameError.among({f"{prefix}{name}" for name in known}, "setting", f"{prefix}{key}")
            raise UsageError(f"{path}: {near}")


def parameters(module: str, name: str) -> frozenset[str] | None:
    """What a function or class takes by name, as its source says; None if that is not certain."""
    found = [node for node in _body(module) if getattr(node, "name", None) == name]
    if len(found) != 1:
        return None
    if isinstance(found[0], ast.FunctionDef):
        return _of_function(found[0])
    if not isinstance(found[0], ast.ClassDef):
        return None
    methods = [node for node in found[0].body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    if methods:
        taken = _of_function(methods[-1])
        return None if taken is None else taken - {"self"}
    fields = [node.target for node in found[0].body if isinstance(node, ast.AnnAssign)]
    return None if found[0].bases else frozenset(field.id for field in fields if isinstance(field, ast.Name))


def names(module: str) -> frozenset[str] | None:
    """All that a menu binds at its top, as its source says; None if plug-ins may add to it, or it is not certain."""
    bound = _bound(_body(module))
    plugins = entry_points(group=f"ediffi.{module.rpartition('.')[2]}")
    return None if plugins or not bound or "*" in bound else bound


def _bound(body: Sequence[ast.stmt]) -> frozenset[str]:
    """What statements bind; "*" if that is not certain."""
    found: set[str] = set()
    for node in body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Import() | ast.ImportFrom():
                found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            case ast.If():
                found |= _bound([*node.body, *node.orelse])
            case ast.Expr():
                pass  # a docstring, or one below a constant
            case _:
                found.add("*")
    return frozenset(found)


def _of_function(node: ast.FunctionDef) -> frozenset[str] | None:
    taken = node.args
    return None if taken.kwarg else frozenset(one.arg for one in [*taken.args, *taken.kwonlyargs])


@lru_cache
def _body(module: str) -> Sequence[ast.stmt]:
    """The statements of a module, which is not imported; none if its source is not to be found."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        place = Path(folder).joinpath(*rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8")).body
    return ()
