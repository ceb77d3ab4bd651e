"""The example plug-in: its README's commands run, and without it, its parts are unknown."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

from ediffi.cli import main
from ediffi.data.index import Index
from ediffi.data.shards import decode, read_shard
from ediffi.registry import denoisers, encoders, samplers
from ediffi.training import checkpoint as checkpoints
from tests.examples.shapes import PLUGIN, ROOT, commands, readme, write_recipes

PARTS = {"encoders": "ngram_text", "denoisers": "dit", "samplers": "dpmpp_2m_sde"}
RUN = """
import json, shlex, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from ediffi.cli import main
for line in json.load(sys.stdin):
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            code = main(shlex.split(line)[1:])
        except SystemExit as stop:
            code = stop.code or 0
    sys.stdout.write(json.dumps([line, code, out.getvalue(), err.getvalue()]) + "\\n")
"""
"""Runs commands one after the other in one process, since most of a command's time is its imports."""


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(lines: list[str], folder: Path, site: Path) -> dict[str, Done]:
    """The results of commands, by command, in an environment with the plug-in."""
    search = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(lines),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {line: Done(*rest) for line, *rest in map(json.loads, done.stdout.splitlines())}


LISTED = "ediffi registry"
PRINTED = f"ediffi fit --config {PLUGIN / 'base.yaml'} --print_config"
WRONG = {
    f"{PRINTED} --model.denoiser.init_args.dept 3": "'dept'",
    f"{PRINTED} --model.denoiser.init_args.depth deep": "deep",
    f"{PRINTED} --model.denoiser ediffi.registry.denoisers.dti": "no denoiser named 'dti'; did you mean dit?",
    "ediffi embed --shards data/shapes --out no --encoders ngram_txt": "did you mean ngram_text",
    'ediffi sample "a red circle" --model my-shapes --sampler dpmpp_2m_sd': "dpmpp_2m_sde",
}


@pytest.fixture(scope="module")
def journey(site: Path, new_folder: Callable[[str], Path]) -> tuple[Path, dict[str, Done]]:
    """The README's commands at small size, and some others."""
    folder = new_folder("journey")
    write_recipes(folder)
    return folder, run([*commands(), LISTED, PRINTED, *WRONG], folder, site)


def test_every_command_of_the_readme_works(journey: tuple[Path, dict[str, Done]]) -> None:
    _, done = journey
    right = {line: result for line, result in done.items() if line not in WRONG}
    assert len(right) == len(commands()) + 2
    for line, result in right.items():
        assert result.code == 0, f"{line}: {result.err}"


def test_the_registry_lists_the_parts_and_where_they_are_from(journey: tuple[Path, dict[str, Done]]) -> None:
    _, done = journey
    for name in PARTS.values():
        assert re.search(rf"\b{name}\b", done[LISTED].out)
    assert "shapeworks" in done[LISTED].out
    described = done["ediffi registry dit"].out
    assert "patch_size: int = 2" in described
    assert "arXiv 2212.09748" in described


def test_shards_hold_the_plug_in_s_embeddings_beside_toybox_s(journey: tuple[Path, dict[str, Done]]) -> None:
    folder, _ = journey
    index = Index.read(str(folder / "data" / "shapeworks"))
    of = index.encoders["ngram_text"]
    assert (of["name"], of["width"], of["pooled_width"]) == ("ngram_text", 128, 64)
    assert set(index.encoders) == {"ngram_text", "t5", "clip_text", "clip_image"}
    samples = [decode(raw) for shard in index.shards for raw in read_shard(shard.url)]
    assert len(samples) == 24
    assert all({"ngram_text.tokens", "ngram_text.pooled"} < set(sample.embeddings) for sample in samples)


def test_the_run_is_what_the_recipe_says(journey: tuple[Path, dict[str, Done]]) -> None:
    """A plug-in's part has the path of any other, and its arguments are those of its own signature."""
    folder, done = journey
    saved = yaml.safe_load((folder / "runs" / "shapeworks" / "config.yaml").read_text())
    assert saved["model"]["denoiser"]["class_path"] == "ediffi.registry.denoisers.dit"
    assert saved["model"]["denoiser"]["init_args"]["depth"] == 1
    assert yaml.safe_load(done[PRINTED].out)["model"]["denoiser"]["init_args"]["depth"] == 6
    assert checkpoints.read(folder / "runs" / "shapeworks" / "checkpoints" / "last.ckpt").expert.steps == 4


def test_a_model_folder_names_the_parts_and_no_code(journey: tuple[Path, dict[str, Done]]) -> None:
    folder, _ = journey
    text = (folder / "my-shapes" / "config.json").read_text()
    config = json.loads(text)
    (stage,) = config["stages"]
    found = (next(iter(config["encoders"])), stage["denoiser"]["name"], stage["sampling"]["sampler"])
    assert found == tuple(PARTS.values())
    assert "shapeworks." not in text


def test_the_images_exist(journey: tuple[Path, dict[str, Done]]) -> None:
    folder, done = journey
    sizes = {"shapes.png": (16, 16), "circle.png": (16, 16), "toybox.png": (256, 256)}
    for name, size in sizes.items():
        with Image.open(folder / name) as image:
            assert image.size == size
    (line,) = [line for line in done if "toybox.png" in line]
    assert done[line].out.count("dpmpp_2m_sde") + done[line].err.count("dpmpp_2m_sde") >= 3, "in each of its stages"


@pytest.mark.parametrize("line", WRONG)
def test_bad_input_is_one_clear_line(line: str, journey: tuple[Path, dict[str, Done]]) -> None:
    _, done = journey
    assert done[line].code in (1, 2)
    assert done[line].err.startswith("ediffi: error: ")
    assert done[line].err.count("\n") == 1
    assert WRONG[line] in done[line].err


def test_without_the_package_its_model_names_what_is_missing(
    journey: tuple[Path, dict[str, Done]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = journey
    for kind, registry in (("encoders", encoders), ("denoisers", denoisers), ("samplers", samplers)):
        assert not registry.names(PARTS[kind]), "this environment must not have it installed"
    assert main(["sample", "a red circle", "--model", str(folder / "my-shapes")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no denoiser named 'dit'" in line
    assert "shapeworks" in line


def test_a_factory_of_another_name_is_named_with_its_entry_point(site: Path, tmp_path: Path) -> None:
    (info,) = site.glob("shapeworks-*.dist-info")
    points = (info / "entry_points.txt").read_text()
    broken = tmp_path / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text(points.replace("dit =", "transformer ="))
    search = os.pathsep.join([str(tmp_path), str(site)])
    done = run(["ediffi registry dit"], tmp_path, Path(search))
    ((code, _, err),) = done.values()
    assert code != 0
    assert "'transformer'" in err
    assert "'dit'" in err


# The package


def test_the_entry_points_are_the_parts(site: Path) -> None:
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    (found,) = distributions(path=[str(site)])
    points = {(point.group, point.name) for point in found.entry_points}
    assert points == {(f"ediffi.{kind}", name) for kind, name in PARTS.items()}
    assert found.version == project["version"]
    assert "ediffi" in (found.requires or [])


def test_the_example_is_small() -> None:
    """Five minutes of reading."""
    assert len((PLUGIN / "README.md").read_text().split()) < 500
    lines = [len(path.read_text().splitlines()) for path in (PLUGIN / "shapeworks").glob("*.py")]
    assert sum(lines) < 420


def test_the_readme_of_the_example_and_its_recipes_say_the_same() -> None:
    for name in ("base", "cascade"):
        header = [line.removeprefix("#   ") for line in (PLUGIN / f"{name}.yaml").read_text().splitlines()]
        assert {line for line in header if line.startswith("ediffi ")} <= set(readme())
    assert readme()[-1].startswith("ediffi sample ")
