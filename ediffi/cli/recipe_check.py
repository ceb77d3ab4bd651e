"""Finds the common mistakes in recipes before torch and Lightning are imported: 0.1 s instead of 6 s to the message.

Those are a file that is missing or not YAML, a key that is there twice, and a setting or denoiser that does not exist.
The parameters of classes are read from their source. Where the source does not tell for certain, nothing is reported:
Lightning's parser reads the recipe again, and checks the values too.
"""

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ediffi.cli.parser import UsageError, unknown
from ediffi.io import plain_yaml
from ediffi.training import class_paths

LIGHTNINGS = ("config", "seed_everything", "trainer", "model", "data", "optimizer", "lr_scheduler", "ckpt_path")
TOP = (*LIGHTNINGS, "weights_only", "verbose", "start")
"""The settings of `ediffi fit` and `ediffi validate`; a test compares them with the parser's."""
GROUPS = {
    "model": ("ediffi.training.lightning_module", "DiffusionStage"),
    "data": ("ediffi.data.module", "ShardData"),
    "start": ("ediffi.training.start", "InitialWeights"),
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
}
"""The class, by module and name, whose parameters are the settings of a group."""
DENOISERS = "ediffi.registry.denoisers"


def check(argv: Sequence[str]) -> bool:
    """Check each `--config` of a command line; UsageError for a wrong recipe, FileNotFoundError for a missing one.

    Returns whether one names the class of its model, as the training of an encoder does, and that of a stage does not.
    """
    own_module = False
    for index, word in enumerate(argv):
        option, _, value = word.partition("=")
        place = (value or "".join(argv[index + 1 : index + 2])) if option in ("--config", "-c") else ""
        if place and Path(place).is_file():
            own_module |= _check_file(Path(place))
        elif place and not set(place) & set(":{\n"):  # with one of these, the text may be YAML itself
            raise FileNotFoundError(f"no recipe {place}: ediffi recipes ls lists those that ship, and cp copies one")
    return own_module


def _check_file(path: Path) -> bool:
    try:
        content = plain_yaml.load(class_paths.current(path.read_text(encoding="utf-8")))
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}, not settings by name")
    except ValueError as error:
        raise UsageError(f"{path} is not a recipe: {error}") from None
    _check_keys(path, content, frozenset(TOP), "")
    model = content.get("model")
    own_module = isinstance(model, dict) and "class_path" in model
    for group, place in GROUPS.items():
        if group != "model" or not own_module:
            _check_keys(path, content.get(group), parameters(*place), f"{group}.")
    match content:
        case {"model": {"class_path": class_path, **rest}}:
            module, _, name = str(class_path).rpartition(".")
            if module.startswith("ediffi."):
                _check_keys(path, rest.get("init_args"), parameters(module, name), "model.init_args.")
        case {"model": {"denoiser": {"class_path": class_path, **rest}}}:
            module, _, name = str(class_path).rpartition(".")
            if module != DENOISERS:
                return own_module
            known = names(module)
            if known is not None and name not in known:
                raise UsageError(f"{path}: {unknown(f'part in {module}', name, known)}")
            _check_keys(path, rest.get("init_args"), parameters(module, name), "model.denoiser.init_args.")
    return own_module


def _check_keys(path: Path, content: Any, known: frozenset[str] | None, prefix: str) -> None:
    if known is None or not isinstance(content, Mapping):
        return
    for key in content:
        if isinstance(key, str) and key.isidentifier() and key[0] != "_" and key not in known:
            raise UsageError(f"{path}: {unknown('setting', f'{prefix}{key}', {f'{prefix}{name}' for name in known})}")


def parameters(module: str, name: str) -> frozenset[str] | None:
    """The parameters of a function or class, by its source; None if that does not tell."""
    found = _definition(_source(module), name)
    if isinstance(found, ast.ClassDef):
        constructor = _definition(found, "__init__")
        if constructor is None and not found.bases:  # a dataclass
            return frozenset(ast.unparse(node.target) for node in found.body if isinstance(node, ast.AnnAssign))
        found = constructor
    if not isinstance(found, ast.FunctionDef):
        return None
    if found.args.kwarg is None:
        return frozenset(one.arg for one in [*found.args.args, *found.args.kwonlyargs]) - {"self"}
    for decorator in found.decorator_list:
        match decorator:  # @variant(parent, without=[...], ...), see `registry.core.variant`
            case ast.Call(func=ast.Name("variant"), args=[ast.Name(parent)], keywords=settings):
                of_parent = parameters(module, parent)
                without = [ast.literal_eval(one.value) for one in settings if one.arg == "without"]
                return None if of_parent is None else of_parent.difference(*without)
    return None


def names(module: str) -> frozenset[str] | None:
    """At least the names that a module binds, by its source; None if plug-ins add to them, or it does not tell."""
    bound: set[str] = set()
    for node in ast.walk(_source(module)):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                bound.add(node.name)
            case ast.alias():
                bound.add(node.asname or node.name.partition(".")[0])
            case ast.Name(ctx=ast.Store()):
                bound.add(node.id)
    plugins = entry_points(group=f"ediffi.{module.rpartition('.')[2]}")
    return None if plugins or not bound or "*" in bound else frozenset(bound)


def _definition(inside: ast.Module | ast.ClassDef, name: str) -> ast.stmt | None:
    return next((node for node in inside.body if getattr(node, "name", None) == name), None)


@lru_cache
def _source(module: str) -> ast.Module:
    """A module's syntax tree, without importing it; an empty one if its source is not found."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of the package alone: of a module, it would import the packages above it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        place = Path(folder).joinpath(*rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])
