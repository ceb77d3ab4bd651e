"""What `import ediffi` offers: these names, documented, and imported on first use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ediffi

PUBLIC = [
    "Cascade",
    "Conditioning",
    "Edit",
    "Images",
    "Region",
    "SamplingOptions",
    "Style",
    "Switch",
    "__version__",
    "attention_maps",
    "denoisers",
    "encoders",
    "read_layout",
    "samplers",
]


def test_the_public_names_are_these() -> None:
    assert sorted(ediffi.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(ediffi))
    with pytest.raises(AttributeError, match="'ediffi' has no attribute 'Painter'"):
        ediffi.Painter  # noqa: B018


@pytest.mark.parametrize("name", ["registry", "evaluation"])
def test_the_folders_of_the_checkout_have_one_import_name(name: str) -> None:
    root = Path(ediffi.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: this package is imported as ediffi.{name}, not as {name}" in done.stderr


def test_a_type_checker_knows_the_same_names() -> None:
    tree = ast.parse(Path(ediffi.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    names = {alias.asname for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(PUBLIC) - {"__version__"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(ediffi, name)
    assert name == "__version__" or found.__name__.rpartition(".")[2] == name
    assert name == "__version__" or found.__doc__


def test_a_name_is_imported_on_first_use() -> None:
    code = "import sys, ediffi; before = 'torch' in sys.modules; ediffi.Switch; print(before, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
