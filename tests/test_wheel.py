"""The wheel, installed away from the checkout, is whole; a stranger's registry.py is named, not tripped over.

The archive of the sources has all that it takes to build the same wheel, to test it and to read about it.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import ediffi

ROOT = Path(__file__).resolve().parent.parent
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


def built(source: Path, folder: Path) -> Path:
    """The wheel of a checkout, or of an archive of the sources."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("ediffi-*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("ediffi-*.tar.gz"))


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


def test_nothing_was_left_lying_in_it(wheel: Path) -> None:
    for name in zipfile.ZipFile(wheel).namelist():
        assert not re.search(r"__pycache__|\.pyc$|\.tmp$|\.ckpt$|(^|/)(runs|data)/.*\.(tar|png)$", name), name
    assert wheel.stat().st_size < 40e6


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    about = f"ediffi-{ediffi.__version__}.dist-info"
    metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    check_metadata(metadata)
    assert archive.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "ediffi = ediffi.cli:main" in archive.read(f"{about}/entry_points.txt").decode()
    assert wheel.name == f"ediffi-{ediffi.__version__}-py3-none-any.whl"


def check_metadata(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Name"] == "ediffi"
    assert metadata["Version"] == ediffi.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    body = metadata.get_payload()
    assert isinstance(body, str)
    assert body.startswith("# ediffi\n")


def test_the_version_is_said_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", ediffi.__version__)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_sources_hold_all_that_is_kept(sources: Path) -> None:
    with tarfile.open(sources) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
        information = archive.extractfile(f"ediffi-{ediffi.__version__}/PKG-INFO")
        assert information is not None
        check_metadata(Parser().parsestr(information.read().decode()))
    rooms = ("ediffi", "registry", "evaluation", "recipes", "tests", "docs", "benchmarks", "examples")
    kept = {path for room in rooms for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".yaml", ".md")}
    files = ("LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELEASE_CHECKLIST.md", "Makefile", ".ci/run")
    files += ("pyproject.toml", "mkdocs.yml", "ediffi/py.typed", "docs/site.css", "docs/images/toybox.png")
    assert not {*(path.relative_to(ROOT).as_posix() for path in kept), *files} - inside
    tops = {name.partition("/")[0] for name in inside}
    assert not tops & {"runs", "data", "outputs", "build", "dist", ".venv", ".git", "demo.png"}
    assert not [name for name in inside if re.search(r"__pycache__|\.pyc$|\.tmp$|\.ckpt$", name)]


def test_the_sources_make_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    one, other = (zipfile.ZipFile(path) for path in (wheel, built(sources, tmp_path)))
    assert {info.filename: info.CRC for info in one.infolist()} == {
        info.filename: info.CRC for info in other.infolist()
    }


def test_the_installed_one_tells_the_same_version(environment: Path, tmp_path: Path) -> None:
    assert call(tmp_path, environment / "ediffi", "--version").stdout == f"ediffi {ediffi.__version__}\n"


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


@pytest.mark.parametrize("statement", ["import ediffi", "from ediffi.cli import recipes"])
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
