"""Finds the common mistakes in recipes before torch and Lightning are imported: 0.1 s instead of 6 s to the message.

Those are a file that is missing or not YAML, a key that is there twice, and a setting or denoiser that does not exist,
in the recipe, in a class that it names, or on the command line.
The parameters of classes are read from their source. Where the source does not tell for certain, nothing is reported:
Lightning's parser reads the recipe again, and checks the values too.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

from ediffi.cli import recipes as shipped
from ediffi.cli.parser import UsageError, unknown
from ediffi.io import plain_yaml
from ediffi.io.recipes import import_beside
from ediffi.registry.core import UnknownNameError
from ediffi.training import class_paths

LIGHTNINGS = ("config", "seed_everything", "trainer", "model", "data", "optimizer", "lr_scheduler", "ckpt_path")
TOP = (*LIGHTNINGS, "weights_only", "verbose", "start")
"""The settings of `ediffi fit` and `ediffi validate`; a test compares them with the parser's."""
REPLACING = ("optimizer", "lr_scheduler")
"""Those that LightningCLI adds, which would take the place of the model's."""
GROUPS = {
    "model": ("ediffi.training.lightning_module", "DiffusionStage"),
    "data": ("ediffi.data.module", "ShardData"),
    "start": ("ediffi.training.start", "InitialWeights"),
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
}
"""The class, by module and name, whose parameters are the settings of a group."""
DENOISERS = "ediffi.registry.denoisers"


def resolved(argv: Sequence[str]) -> list[str]:
    """The words of a command line, with the files of recipes that ship for their names; and what stands beside a recipe
    can be imported, as far as a recipe may (`ediffi.io.recipes`). FileNotFoundError: a recipe is missing."""
    words, files = list(argv), list[Path]()
    for index, place in _recipes(argv):
        file = Path(place)
        if not file.is_file() and place.removesuffix(".yaml") in shipped.names():
            file = shipped.path_of(place)
            words[index] = f"{words[index].partition('=')[0]}={file}" if "=" in words[index] else str(file)
        elif not file.is_file():
            near = UnknownNameError.among(shipped.names(), "recipe", place.removesuffix(".yaml"))
            raise FileNotFoundError(f"no file {place}, and {near} (ediffi recipes ls lists those that ship)")
        files.append(file)
    import_beside(*files)
    return words


def node_recipe(argv: Sequence[str]) -> list[str]:
    """`--recipe FILE` for a growth schedule whose `recipe` is not there: the file of that name beside the schedule, or
    the recipe of that name that ships."""
    for _, place in _recipes(argv):
        try:
            named = plain_yaml.load(Path(place).read_text(encoding="utf-8")).get("recipe")
        except (ValueError, AttributeError, OSError):
            continue  # the parser says what is wrong
        if isinstance(named, str) and not Path(named).is_file() and "--recipe" not in argv:
            beside, name = Path(place).parent / Path(named).name, named.removeprefix("recipes/").removesuffix(".yaml")
            if found := beside if beside.is_file() else shipped.path_of(name) if name in shipped.names() else None:
                return ["--recipe", str(found)]
    return []


def check(argv: Sequence[str]) -> bool:
    """Check each `--config` of a command line, and its options; UsageError for a wrong one.

    Returns whether a recipe names the class of its model, as the training of an encoder does, and a stage's does not.
    """
    whole: dict[str, Any] = {}
    for _, place in _recipes(argv):
        if Path(place).is_file():
            whole = _merged(whole, _check_file(Path(place)))
    own_module = _own_module(whole)
    given = dict[str, str]()
    for word, after in pairwise([*argv, "--"]):
        name, equals, value = word.removeprefix("--").partition("=")
        if re.match(r"--\w", word):
            given[name] = value if equals or after.startswith("--") else after
    for name, value in given.items():
        if "${" in value:
            raise UsageError(f"--{name} is {value!r}, and a recipe has no variables; write the value")
        if (group := name.partition(".")[0]) in REPLACING:
            raise UsageError(f"--{name} would replace model.{group} and its schedule: set model.{group}")
        _check_option(name, whole, {key.removesuffix(".class_path"): text for key, text in given.items()})
        if name == "model.denoiser" and "." not in value and value.isidentifier():
            raise UsageError(_advised(value))
    return own_module


def _recipes(argv: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The recipes that a command line names, and where; a text with one of `:{` may be YAML itself."""
    for index, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            at = index if equals else index + 1
            place = value if equals else "".join(argv[at : at + 1])
            if place and not set(place) & set(":{\n"):
                yield at, place


def _merged(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with those of a later recipe over them."""
    both = {key: (one[key], two[key]) for key in one.keys() & two.keys()}
    deep = {k: _merged(a, b) for k, (a, b) in both.items() if isinstance(a, Mapping) and isinstance(b, Mapping)}
    return {**one, **two, **deep}


def _own_module(content: Mapping[str, Any]) -> bool:
    return isinstance(content.get("model"), Mapping) and "class_path" in content["model"]


def _check_file(path: Path) -> dict[str, Any]:
    try:
        content = plain_yaml.load(class_paths.current(path.read_text(encoding="utf-8")))
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}, not settings by name")
    except ValueError as error:
        raise UsageError(f"{path} is not a recipe: {error}") from None
    _check_keys(path, content, frozenset(TOP), "")
    for group, place in GROUPS.items():
        if group != "model" or not _own_module(content):
            _check_keys(path, content.get(group), parameters(*place), f"{group}.")
    _check_classes(path, content, "")
    return content


def _check_classes(path: Path, content: Any, prefix: str) -> None:
    """Check the arguments of every class that a recipe names, at any depth."""
    if isinstance(content, str) and "${" in content:
        raise UsageError(f"{path}: {prefix.rstrip('.')} is {content!r}, and a recipe has no variables; write the value")
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        return
    if isinstance(class_path := content.get("class_path"), str):
        module, _, name = class_path.rpartition(".")
        known = names(module) if module == DENOISERS else None
        if known is not None and name not in known:
            raise UsageError(f"{path}: {unknown(f'part in {module}', name, known)}")
        _check_keys(path, content.get("init_args"), parameters(module, name), f"{prefix}init_args.")
    for key, value in content.items():
        _check_classes(path, value, f"{prefix}{key}.")


def _check_option(name: str, content: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Check the dotted name of an option; `given` are all options, which may name other classes than the recipe."""
    known: frozenset[str] | None = frozenset((*TOP, "help", "print_config"))
    node: Any = content
    arguments: frozenset[str] | None = None
    so_far: list[str] = []
    for part in name.removesuffix("+").split("."):
        if known is not None and part not in known:
            near = {".".join([*so_far, other]) for other in known}
            raise UsageError(str(unknown("setting", ".".join([*so_far, part]), near)))
        so_far.append(part)
        node = node.get(part) if isinstance(node, Mapping) else None
        dotted = ".".join(so_far)
        classes = [given[dotted]] if given.get(dotted) else node if isinstance(node, list) else [node]
        if part == "init_args":
            known = arguments
        elif len(so_far) == 1 and part in GROUPS and not (part == "model" and _own_module(content)):
            of_group = parameters(*GROUPS[part])
            known = None if of_group is None else of_group | {"help"}
        else:
            taken = [_parameters_of(one) for one in classes]
            told = [one for one in taken if one is not None]
            certain = len(told) == len(classes) > 0 and f"{dotted}+" not in given  # which adds one to the list
            arguments = frozenset[str]().union(*told) if certain else None
            known = None if arguments is None else arguments | {"class_path", "init_args", "dict_kwargs", "help"}


def _parameters_of(node: Any) -> frozenset[str] | None:
    """The parameters of a class that a recipe names, with `init_args` or alone; None if that does not tell."""
    class_path = node.get("class_path") if isinstance(node, Mapping) else node
    module, _, name = class_path.rpartition(".") if isinstance(class_path, str) else ("", "", "")
    return parameters(module, name) if module else None


def _advised(name: str) -> str:
    """What to write for a denoiser that is named without its module."""
    known = {node.name for node in _source(DENOISERS).body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    if name not in known:
        return str(unknown("denoiser", name, known))
    return f"model.denoiser is a class path: write {DENOISERS}.{name}"


def _check_keys(path: Path, content: Any, known: frozenset[str] | None, prefix: str) -> None:
    if known is None or not isinstance(content, Mapping):
        return
    for key in content:
        if isinstance(key, str) and key.isidentifier() and key[0] != "_" and key not in known:
            raise UsageError(f"{path}: {unknown('setting', f'{prefix}{key}', {f'{prefix}{name}' for name in known})}")


def parameters(module: str, name: str) -> frozenset[str] | None:
    """The parameters of a function or class, by its source; None if that does not tell."""
    module, name = _origin(module, name)
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


def _origin(module: str, name: str) -> tuple[str, str]:
    """Where a name is defined that a module may only import from another."""
    seen: set[tuple[str, str]] = set()
    while (module, name) not in seen and _definition(_source(module), name) is None:
        seen.add((module, name))
        for node in _source(module).body:
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        module, name = node.module, alias.name
    return module, name


def _definition(inside: ast.Module | ast.ClassDef, name: str) -> ast.stmt | None:
    return next((node for node in inside.body if getattr(node, "name", None) == name), None)


@lru_cache
def _source(module: str) -> ast.Module:
    """A module's syntax tree, without importing it; an empty one if its source is not found."""
    top, *rest = module.split(".")
    if not top:
        return ast.Module([], [])
    spec = importlib.util.find_spec(top)  # of the package alone: of a module, it would import the packages above it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        place = Path(folder).joinpath(*rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])
