"""Imports only go down, from room to room and without a circle; what is heavy is imported where it is used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ediffi"
FLOORS = (
    ("io",),
    ("registry",),
    ("evaluation", "diffusion"),
    ("hub",),
    ("pipeline",),
    ("data",),
    ("training", "toybox", "studio"),
    ("cli",),
)
"""The rooms of `ediffi/`, from the ground up. Rooms of one floor do not import each other."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
BESIDES = {"__init__.py", "__main__.py", "py.typed", "weights", "__pycache__"}
LIGHTNING = ("ediffi.training", "ediffi.data.module", "ediffi.cli.fit", "ediffi.io.distributed", "ediffi.toybox")
LAZY = {
    "transformers",
    "open_clip",
    "torchmetrics",
    "torch_fidelity",
    "gradio",
    "matplotlib",
    "peft",
    "huggingface_hub",
}

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in FLOOR
    for path in sorted((PACKAGE / room).glob("**/*.py"))
}


def imports(path: Path, *, top_level_only: bool) -> Iterator[str]:
    """Dotted names that a file imports; `from a import b` yields "a.b" where that is a module of ours, else "a"."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in FILES else str(node.module) for name in inside)
        elif top_level_only and (is_lazy(node) or is_typing_only(node)):
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return visit(ast.parse(path.read_text(encoding="utf-8")))


def is_lazy(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def room(module: str) -> str:
    return module.split(".")[1]


def packages(names: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def loaded_by(*arguments: str) -> set[str]:
    """Names in sys.modules after `python -X importtime ...`, which lists every import on stderr."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    return loaded | {name.partition(".")[0] for name in loaded}


def test_every_room_has_a_floor() -> None:
    assert {path.name for path in PACKAGE.iterdir()} - BESIDES == set(FLOOR)
    assert {"ediffi.registry.core", "ediffi.evaluation.metrics.kid", "ediffi.cli.images"} <= FILES.keys()


def test_imports_go_down() -> None:
    """Also those inside functions, and those of names that only the type checker reads."""
    up = [
        f"{module} imports {name}"
        for module, path in FILES.items()
        for name in imports(path, top_level_only=False)
        if name in FILES and room(name) != room(module) and FLOOR[room(name)] >= FLOOR[room(module)]
    ]
    assert not up


def test_no_circular_imports() -> None:
    graph = {
        module: {name for name in imports(path, top_level_only=False) if name in FILES and name != module}
        for module, path in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(error.args[1])}")


def test_lightning_stays_in_its_rooms() -> None:
    others = {module: path for module, path in FILES.items() if not module.startswith(LIGHTNING)}
    assert not [m for m, path in others.items() if "lightning" in packages(imports(path, top_level_only=False))]


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    assert not [m for m, path in FILES.items() if LAZY & packages(imports(path, top_level_only=True))]


@pytest.mark.parametrize("arguments", [("-c", "import ediffi"), ("-m", "ediffi", "--help")], ids=["import", "help"])
def test_start_loads_only_the_standard_library(arguments: tuple[str, ...]) -> None:
    loaded = loaded_by(*arguments)
    assert "ediffi" in loaded
    assert not loaded & {"torch", "numpy", "jsonargparse", "ediffi.registry", "socket"}


def test_a_light_command_stays_light() -> None:
    loaded = loaded_by("-m", "ediffi", "recipes", "ls")
    assert "jsonargparse" in loaded
    assert not loaded & {"torch", "numpy", "lightning", *LAZY}


def test_what_loads_is_seen() -> None:
    assert {"ediffi.registry", "torch"} <= loaded_by("-c", "import ediffi.registry.types")


def test_shapes_are_checked_in_tests() -> None:
    from ediffi.registry.types import Embedding

    with pytest.raises(TypeCheckError, match="mask"):
        Embedding(torch.zeros(2, 3, 4), torch.ones(2, 5, dtype=torch.bool))
