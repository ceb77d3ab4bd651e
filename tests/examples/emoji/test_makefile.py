"""The Makefile of the example: each of its commands is one that ediffi and emojiworld take."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ediffi.cli import recipes

TOP = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def dry_run(*words: str) -> list[list[str]]:
    """The commands that make would run where nothing is made yet, as words after the module's name."""
    run = subprocess.run(
        ["make", "-n", "-B", "-C", TOP / "examples/emoji", *words], capture_output=True, text=True, check=True
    )
    return [line.partition(" -m ")[2].split() for line in run.stdout.splitlines() if " -m " in line]


@pytest.mark.parametrize(
    ("words", "folder", "runs"),
    [
        ((), "emoji", ["base", "sr64", "base_style", "base_more", "base_detail"]),
        (("GPU=1",), "emoji/gpu", ["base", "sr64"]),
    ],
)
def test_every_step_of_the_road_is_there(words: tuple[str, ...], folder: str, runs: list[str]) -> None:
    commands = dry_run("picture", "judge", *words)
    named = [line[line.index("--config") + 1] for line in commands if "--config" in line]
    assert sorted(named) == sorted(
        f"recipes/{folder}/{name}.yaml" for name in ("clip", "clip_style", *runs, "sr256", "cascade")
    )
    written = {line[line.index("--out") + 1] for line in commands if line[1] == "embed"}
    written |= {line[3] for line in commands if line[1] == "references"}
    read = {place for name in (*runs, "sr256") for place in data_of(f"recipes/{folder}/{name}.yaml")}
    assert read <= written, "the recipes read what was written"
    assert {"sprites", "scenes", "suite", "sample", "evaluate"} <= {line[1] for line in commands}


def data_of(recipe: str) -> list[str]:
    data = yaml.safe_load((TOP / recipe).read_text())["data"]
    return [data["train"], data["val"]]


def test_a_short_road_has_fewer_steps_and_scenes() -> None:
    commands = dry_run("STEPS=7", "SCENES=90")
    assert all("7" in line for line in commands if line[1] == "fit")
    assert any(line[line.index("--count") + 1] == "90" for line in commands if "--count" in line)


def test_a_short_road_is_judged_by_a_few_prompts() -> None:
    (judged,) = [line for line in dry_run("STEPS=7", "judge") if line[1] == "evaluate"]
    assert int(judged[judged.index("--count") + 1]) < 100
    (whole,) = [line for line in dry_run("judge") if line[1] == "evaluate"]
    assert "--count" not in whole


def test_the_recipes_for_a_gpu_are_found_by_name() -> None:
    assert {"emoji/gpu/base", "emoji/gpu/sr64", "emoji/gpu/sr256", "emoji/gpu/cascade"} <= set(recipes.names())


@pytest.mark.parametrize(("bfloat16", "given"), [("emulated", True), ("yes", False)])
def test_all_trainings_are_in_float32_where_bfloat16_is_emulated(bfloat16: str, given: bool, tmp_path: Path) -> None:
    python = tmp_path / "python"  # which says what `ediffi env` says on such a machine
    python.write_text(f"#!/bin/sh\necho 'bfloat16:         {bfloat16}'\n")
    python.chmod(0o755)
    trainings = [line for line in dry_run("picture", f"PYTHON={python}") if line[1] == "fit"]
    assert len(trainings) == 8
    assert all((line[-2:] == ["--trainer.precision", "32-true"]) == given for line in trainings)
