"""Recipes of earlier versions are parsed to the same settings, wherever a class path stands in them."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.cli.recipes import path_of
from ediffi.training import class_paths
from ediffi.training.resume import changes

pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in QUIET]
BASE = path_of("toybox/base")


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """The recipe of the base stage as it was written before the classes moved."""
    class_paths._warn.cache_clear()
    text = BASE.read_text().replace("ediffi.registry.", "registry.")
    for before, now in class_paths.MOVED.items():
        text = text.replace(now, before)
    assert "ediffi.training" not in text
    assert "ediffi.registry" not in text
    path = tmp_path / "old.yaml"
    path.write_text(text)
    yield path
    class_paths._warn.cache_clear()


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[dict, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *map(str, words), "--print_config"])
    out, err = capsys.readouterr()
    return yaml.safe_load(out), err


@pytest.mark.parametrize("path", class_paths.MOVED.values())
def test_every_class_is_where_the_table_says(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name).__module__ == module


def test_an_old_recipe_is_the_new_one_and_each_moved_class_is_named_once(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, silent = printed(capsys, "--config", BASE)
    found, warned = printed(capsys, "--config", old, "--config", old)
    assert found == expected
    assert silent == ""
    assert sorted(line.split()[0] for line in warned.splitlines()) == [
        "ediffi.stages.one_cycle.OneCycle",
        "ediffi.stages.sample_grid.SampleGrid",
        "ediffi.stages.sharded_average.ShardedAverage",
    ]
    assert "ediffi.training.callbacks.sample_grid.SampleGrid" in warned


def test_old_paths_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--model.denoiser", "registry.denoisers.unet_base64"],
        ["--model.denoiser=registry.denoisers.unet_base64"],
        ["--model.denoiser.class_path", "registry.denoisers.unet_base64"],
    ):
        found, warned = printed(capsys, "--config", BASE, *words)
        assert found["model"]["denoiser"]["class_path"] == "ediffi.registry.denoisers.unet_base64"
        assert warned == ""


def test_an_old_run_is_resumed_by_a_new_recipe(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = printed(capsys, "--config", BASE)
    began, _ = printed(capsys, "--config", old)
    text = yaml.safe_dump(began).replace("ediffi.registry.denoisers", "registry.denoisers")
    (old.parent / "config.yaml").write_text(
        text.replace(*reversed(moved("SampleGrid"))).replace(*reversed(moved("OneCycle")))
    )
    assert changes(class_paths.read_recipe(old.parent / "config.yaml"), found) == {}
    found["model"]["denoiser"]["class_path"] = "ediffi.registry.denoisers.unet_base64"
    assert "model.denoiser.class_path" in changes(class_paths.read_recipe(old.parent / "config.yaml"), found)


def moved(name: str) -> tuple[str, str]:
    return next((before, now) for before, now in class_paths.MOVED.items() if now.endswith(f".{name}"))


@pytest.mark.parametrize("command", ["params", "plan"])
def test_an_old_recipe_is_counted(command: str, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(BASE)]) == 0
    expected = capsys.readouterr().out
    assert main([command, str(old)]) == 0
    assert capsys.readouterr().out == expected.replace(str(BASE), str(old))


def test_an_old_recipe_is_grown(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [{"interval": {"level": 0, "index": 0}, "steps": 2000}]
    stage = {"name": "base", "resolution": 16}
    schedule = {"recipe": str(old), "output": str(tmp_path / "grown"), "nodes": nodes, "stage": stage}
    schedule["overrides"] = {"model.denoiser.class_path": "registry.denoisers.unet_toybox"}
    (tmp_path / "schedule.yaml").write_text(yaml.safe_dump(schedule))
    assert main(["params", str(tmp_path / "schedule.yaml")]) == 0
    assert "unet_toybox" in capsys.readouterr().out


def test_only_whole_class_paths_are_replaced() -> None:
    for text in (
        "my.registry.denoisers.unet",
        "./registry.denoisers.unet",
        "registry.yaml",
        "ediffi.registry.encoders.t5",
    ):
        assert class_paths.current(text) == text
    assert class_paths.current("a: registry.samplers.heun") == "a: ediffi.registry.samplers.heun"
