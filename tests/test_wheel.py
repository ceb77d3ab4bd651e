"""The wheel and the archive of the sources are complete, and the wheel works away from the checkout.

The checkout has `ediffi/registry` and `ediffi/evaluation` as links to folders beside `ediffi`; both archives have
the files themselves there.
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
from collections.abc import Callable
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
def wheel(new_folder: Callable[[str], Path]) -> Path:
    return built(ROOT, new_folder("wheel"))


@pytest.fixture(scope="module")
def sources(new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("sources")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("ediffi-*.tar.gz"))


@pytest.fixture(scope="module")
def environment(wheel: Path, new_folder: Callable[[str], Path]) -> Path:
    """The wheel's own environment. It borrows the libraries of this one, but none of its editable installs: a path
    file inside a borrowed folder is not read."""
    folder = new_folder("environment")
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


def files(*folders: str) -> set[str]:
    """All files of the checkout in these folders, links followed, but for caches."""
    walked = (
        Path(place) / name
        for top in folders
        for place, _, names in os.walk(ROOT / top, followlinks=True)
        for name in names
    )
    return {path.relative_to(ROOT).as_posix() for path in walked if "__pycache__" not in path.parts}


def test_the_wheel_holds_one_package_with_all_of_its_files(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in inside} == {"ediffi"}
    expected = files("ediffi") | {f"ediffi/_{name}" for name in files("recipes")}
    for name in ("registry/core.py", "evaluation/judge.py", "_recipes/toybox/base.yaml", "py.typed"):
        assert f"ediffi/{name}" in expected
    assert inside == expected


def test_nothing_was_left_lying_in_it(wheel: Path) -> None:
    for name in zipfile.ZipFile(wheel).namelist():
        assert not re.search(r"__pycache__|\.pyc$|\.tmp$|\.ckpt$|(^|/)(runs|data)/.*\.(tar|png)$", name), name
    assert wheel.stat().st_size < 60e6


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    about = f"ediffi-{ediffi.__version__}.dist-info"
    metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    check_metadata(metadata)
    assert archive.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert archive.read(f"{about}/licenses/NOTICE") == archive.read("ediffi/weights/emoji/NOTICE")
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
    kept = files("ediffi", "recipes", "reproduction", "tests", "docs", "benchmarks", "examples")
    kept |= {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELEASE_CHECKLIST.md", "Makefile", ".ci/run"}
    assert not kept - inside
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


@pytest.mark.parametrize("where", ["checkout", "wheel"])
def test_it_works_beside_files_of_the_same_names(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A repository that uses ediffi may have an `evaluation.py`, a `registry.py` and a `utils/` of its own."""
    python = sys.executable if where == "checkout" else request.getfixturevalue("environment") / "python"
    (tmp_path / "utils").mkdir()
    for name in ("evaluation.py", "registry.py", "utils/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module was imported')")
    code = "import ediffi; print(len(ediffi.Cascade.from_pretrained('toybox').stages), ediffi.__file__)"
    path = {"PYTHONPATH": str(ROOT)} if where == "checkout" else {}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=CLEAN | path, capture_output=True, text=True)
    count, file = done.stdout.split() or [done.stderr, ""]
    assert count == "3"
    assert Path(file).is_relative_to(ROOT) == (where == "checkout")


def test_a_reproduction_needs_the_checkout(environment: Path, tmp_path: Path) -> None:
    done = call(tmp_path, environment / "ediffi", "reproduce")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ediffi: error: " in done.stderr
    assert "clone" in done.stderr
    assert done.stderr.count("\n") == 1
