"""The wheel, installed away from the checkout, is whole; a stranger's registry.py is named, not tripped over."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    built = subprocess.run([*command, "--quiet"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("ediffi-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's own environment. It borrows the libraries of this one, but none of its editable installs: a path
    file inside a borrowed folder is not read."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    place = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", place], check=True, capture_output=True, text=True).stdout.strip())
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def call(folder: Path, *command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, env=CLEAN, capture_output=True, text=True)


def shipped(*suffixes: str) -> set[str]:
    """What git would keep of the three packages and the recipes, by the name it has in the wheel."""
    listed = [path for room in ("ediffi", "registry", "evaluation", "recipes") for path in (ROOT / room).rglob("*")]
    names = {path.relative_to(ROOT).as_posix() for path in listed if path.suffix in suffixes or path.name == "py.typed"}
    return {f"ediffi/_{name}" if name.startswith("recipes/") else name for name in names}


def test_the_wheel_holds_the_house_and_nothing_else(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = shipped(".py", ".yaml", ".json", ".safetensors", ".html", ".css", ".js", ".j2")
    assert {"registry/core.py", "registry/py.typed", "evaluation/py.typed", "ediffi/py.typed"} <= expected
    assert not expected - inside
    assert {name.partition("/")[0] for name in inside} == {"ediffi", "registry", "evaluation"}


def test_it_runs_away_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    done = call(tmp_path, environment / "ediffi", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: ediffi" in done.stdout
    where = call(tmp_path, environment / "python", "-c", "from ediffi import registry; print(registry.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(environment.parent), where.stderr


def test_it_brings_the_recipes(environment: Path, tmp_path: Path) -> None:
    done = call(tmp_path, environment / "ediffi", "recipes", "ls")
    names = sorted(path.relative_to(ROOT / "recipes").with_suffix("") for path in (ROOT / "recipes").rglob("*.yaml"))
    assert names
    assert [line.split()[0] for line in done.stdout.splitlines()] == [name.as_posix() for name in names]


@pytest.fixture(params=["registry.py", "evaluation/__init__.py"])
def stranger(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of the user's own that has one of our names."""
    file: Path = tmp_path / request.param
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('the stranger was imported')")
    return file


def test_a_stranger_of_the_same_name_is_named(environment: Path, tmp_path: Path, stranger: Path) -> None:
    done = call(tmp_path, environment / "python", "-m", "ediffi", "--help")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"ediffi: error: {stranger} shadows the package ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("statement", ["import ediffi", "from ediffi.commands import recipes"])
def test_a_program_gets_an_import_error(environment: Path, tmp_path: Path, stranger: Path, statement: str) -> None:
    code = f"try:\n    {statement}\nexcept ImportError as error:\n    print(error)"
    done = call(tmp_path, environment / "python", "-c", code)
    assert done.stdout.startswith(f"{stranger} shadows the package "), done.stderr


@pytest.mark.usefixtures("stranger")
def test_the_console_script_does_not_look_in_this_folder(environment: Path, tmp_path: Path) -> None:
    done = call(tmp_path, environment / "ediffi", "recipes", "ls")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stranger_on_the_search_path_is_named_by_the_console_script(
    environment: Path, tmp_path: Path, stranger: Path
) -> None:
    command = [environment / "ediffi", "recipes", "ls"]
    searched = {**CLEAN, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd="/", env=searched, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"ediffi: error: {stranger} shadows the package ")
    assert done.stderr.count("\n") == 1
