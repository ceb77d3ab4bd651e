"""The wheels in new environments: sampling, training with the plug-in, publishing and loading.

The environments hold the built wheels and nothing of this checkout. The libraries that the wheels depend on are
those of the test environment, through a path file, so this does not test their download, or the versions that pip would
choose. The Hub is a server on loopback; the client is huggingface_hub.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.examples.shapes import PLUGIN, ROOT, commands, write_recipes
from tests.hub.loopback import Hub, serve

REPO = "lab/my-shapes"
UNSET = ("PYTHONPATH", "VIRTUAL_ENV", "HF_HUB_OFFLINE")
CLEAN = {key: value for key, value in os.environ.items() if key not in UNSET} | {"OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


class Environment:
    """A virtual environment with wheels, away from the checkout.

    Args:
        folder: of the environment.
        wheels: to install.
    """

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        venv.create(folder, with_pip=False)
        self.bin, self.home = folder / "bin", folder / "home"
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python"]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", *wheels], check=True)
        place = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([self.bin / "python", "-c", place], check=True, capture_output=True, text=True)
        (Path(own.stdout.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib"))

    def call(self, line: str, folder: Path, hub: Hub | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command line in a folder, with separate caches, and no network but the Hub."""
        url = "http://127.0.0.1:9" if hub is None else hub.url
        known = {"HF_HOME": str(self.home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_ours"}
        program, *words = shlex.split(line)
        return subprocess.run(
            [self.bin / program, *words], cwd=folder, env=CLEAN | known, capture_output=True, text=True
        )

    def run(self, line: str, folder: Path, hub: Hub | None = None) -> str:
        """Run a command line that must succeed; returns its output."""
        done = self.call(line, folder, hub)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def wheels(new_folder: Callable[[str], Path]) -> dict[str, Path]:
    """The wheel of ediffi and that of the plug-in."""
    folder = new_folder("wheels")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*pip, ROOT, PLUGIN], check=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def plain(wheels: dict[str, Path], new_folder: Callable[[str], Path]) -> Environment:
    """An environment with ediffi alone."""
    return Environment(new_folder("plain"), [wheels["ediffi"]])


@pytest.fixture(scope="module")
def both(wheels: dict[str, Path], new_folder: Callable[[str], Path]) -> Environment:
    """An environment with ediffi and the plug-in."""
    return Environment(new_folder("both"), list(wheels.values()))


@pytest.fixture(scope="module")
def trained(both: Environment, new_folder: Callable[[str], Path]) -> Path:
    """The folder in which the README's commands ran."""
    folder = new_folder("work")
    write_recipes(folder)
    for line in commands():
        both.run(line, folder)
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve() as served:
        yield served


def same(one: Path, two: Path) -> bool:
    with Image.open(one) as first, Image.open(two) as second:
        return first.size == second.size and ImageChops.difference(first, second).getbbox() is None


def test_the_wheel_samples_outside_of_the_checkout(plain: Environment, tmp_path: Path) -> None:
    plain.run('ediffi sample "a red circle" -o circle.png --num-inference-steps 4', tmp_path)
    with Image.open(tmp_path / "circle.png") as image:
        assert image.size == (256, 256)
    where = plain.run(
        "python -c 'import ediffi.registry, ediffi.evaluation; print(ediffi.registry.__file__)'", tmp_path
    )
    assert Path(where.strip()).is_relative_to(plain.bin.parent)
    assert "ngram_text" not in plain.run("ediffi registry", tmp_path)


def test_the_plug_in_is_installed_beside_it_and_its_recipe_trained(both: Environment, trained: Path) -> None:
    listed = both.run("ediffi registry", trained)
    assert all(name in listed for name in ("ngram_text", "dit", "dpmpp_2m_sde"))
    assert {"my-shapes", "runs", "data"} <= {path.name for path in trained.iterdir()}
    with Image.open(trained / "shapes.png") as image:
        assert image.size == (16, 16)


def test_what_it_trained_is_published_and_loaded_bit_for_bit(
    both: Environment, trained: Path, hub: Hub, tmp_path: Path
) -> None:
    """Also into an environment that has only the wheels and an empty cache."""
    printed = both.run(f"ediffi publish my-shapes {REPO} --license apache-2.0 --recipe base.yaml", trained, hub)
    assert REPO in printed
    assert "config.json" in hub.files(REPO)
    assert not list(both.home.rglob("config.json")), "nothing was loaded yet"
    line = f'ediffi sample "a red circle left of a blue square" --model {REPO} -o loaded.png'
    both.run(line, tmp_path, hub)
    assert same(tmp_path / "loaded.png", trained / "shapes.png")
    served = len(hub.requests)
    both.run(line.replace("ediffi sample", "python -m ediffi sample"), tmp_path, hub)
    assert [request.path for request in hub.requests[served:] if "cdn" in request.path] == [], "from the cache"


def test_without_the_plug_in_the_published_model_says_what_is_missing(
    plain: Environment, both: Environment, trained: Path, hub: Hub, tmp_path: Path
) -> None:
    if REPO not in hub.repositories:
        both.run(f"ediffi publish my-shapes {REPO} --license apache-2.0", trained, hub)
    done = plain.call(f'ediffi sample "a red circle" --model {REPO}', tmp_path, hub)
    assert done.returncode == 1
    assert done.stderr.startswith("ediffi: error: ")
    assert done.stderr.count("\n") == 1
    assert "shapeworks" in done.stderr
