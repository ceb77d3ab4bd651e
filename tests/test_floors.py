"""Imports only go down: ediffi, evaluation, registry. What is heavy is imported where it is used."""

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
HOUSE = {"registry", "evaluation", "ediffi"}
ABOVE = {"registry": {"evaluation", "ediffi"}, "evaluation": {"ediffi"}, "ediffi": set()}
LIGHTNING_ROOMS = ("ediffi.training", "ediffi.data", "ediffi.cli", "ediffi.toybox")
LAZY = {"transformers", "open_clip", "torchmetrics", "torch_fidelity", "gradio", "matplotlib"}

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in sorted(HOUSE)
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(path: Path, *, top_level_only: bool) -> Iterator[str]:
    """Dotted names that a file imports; `from a import b` yields "a.b" where that is a module of ours, else "a"."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in FILES else node.module for name in inside)
        elif top_level_only and (is_lazy(node) or is_typing_only(node)):
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return visit(ast.parse(path.read_text(encoding="utf-8")))


def is_lazy(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def tops(names: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def loaded_by(*arguments: str) -> set[str]:
    """Top-level names in sys.modules after `python -X importtime ...`, which lists every import on stderr."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}


def test_the_house_was_found() -> None:
    assert {"ediffi.registry.core", "ediffi.registry.types", "ediffi.cli", "evaluation"} <= FILES.keys()


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    above = ABOVE[module.partition(".")[0]]
    assert not above & tops(imports(FILES[module], top_level_only=False))


@pytest.mark.parametrize("module", FILES)
def test_lightning_stays_in_its_rooms(module: str) -> None:
    if not module.startswith(LIGHTNING_ROOMS):
        found = tops(imports(FILES[module], top_level_only=False))
        assert not {"lightning", "pytorch_lightning"} & found


@pytest.mark.parametrize("module", FILES)
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    assert not LAZY & tops(imports(FILES[module], top_level_only=True))


def test_no_circular_imports() -> None:
    graph = {
        module: {name for name in imports(path, top_level_only=True) if name in FILES and name != module}
        for module, path in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("arguments", [("-c", "import ediffi"), ("-m", "ediffi", "--help")], ids=["import", "help"])
def test_start_loads_only_the_standard_library(arguments: tuple[str, ...]) -> None:
    loaded = loaded_by(*arguments)
    assert "ediffi" in loaded
    assert not loaded & {"torch", "numpy", "jsonargparse", "registry", "socket"}


def test_a_light_command_stays_light() -> None:
    loaded = loaded_by("-m", "ediffi", "recipes", "ls")
    assert "jsonargparse" in loaded
    assert not loaded & {"torch", "numpy", "lightning", *LAZY}


def test_what_loads_is_seen() -> None:
    assert {"registry", "torch"} <= loaded_by("-c", "import ediffi.registry.types")


def test_shapes_are_checked_in_tests() -> None:
    from ediffi.registry.types import Embedding

    with pytest.raises(TypeCheckError, match="mask"):
        Embedding(torch.zeros(2, 3, 4), torch.ones(2, 5, dtype=torch.bool))
