"""What the command line can answer without torch and Lightning, it does; `benchmarks/startup.py` measures the time."""

import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ediffi import cli
from ediffi.cli import UsageError, recipe_check
from ediffi.cli.recipes import folder
from ediffi.registry import denoisers

BASE = folder() / "toybox" / "base.yaml"
HEAVY = {"torch", "lightning", "numpy", "transformers", "open_clip", "huggingface_hub"}
Change = Callable[[dict], object]


def answer(*words: str) -> tuple[int, str, set[str]]:
    """Exit code, last line of what was said, and the top-level names of all that was imported."""
    command = [sys.executable, "-X", "importtime", "-m", "ediffi", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    said = [line for line in (*done.stdout.splitlines(), *lines) if not line.startswith("import time:")]
    return done.returncode, said[-1], loaded


def changed(tmp_path: Path, change: Change) -> str:
    content = yaml.safe_load(BASE.read_text())
    change(content)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def rename(old: str, new: str, *groups: str) -> Change:
    def change(content: dict) -> None:
        for group in groups:
            content = content[group]
        content[new] = content.pop(old)

    return change


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["recipes", "ls"], ["smaple"]])
def test_what_needs_no_model_loads_no_torch(words: list[str]) -> None:
    code, _, loaded = answer(*words)
    assert code == (2 if words == ["smaple"] else 0)
    assert "ediffi" in loaded
    assert not loaded & HEAVY


def test_a_recipe_that_is_wrong_for_certain_loads_no_torch(tmp_path: Path) -> None:
    code, line, loaded = answer("fit", "--config", changed(tmp_path, rename("batch_size", "batch_sise", "data")))
    assert code == 2
    assert line.startswith("ediffi: error: ")
    assert "no setting named 'data.batch_sise'; did you mean data.batch_size" in line
    assert not loaded & HEAVY
    code, line, loaded = answer("validate", "--config", str(tmp_path / "none.yaml"))
    assert (code, line.split(":")[2].split()[:2]) == (1, ["no", "file"])
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (rename("model", "modle"), "no setting named 'modle'; did you mean model"),
        (rename("max_steps", "max_step", "trainer"), "'trainer.max_step'; did you mean trainer.max_steps"),
        (rename("denoiser", "denoisr", "model"), "'model.denoisr'; did you mean model.denoiser"),
        (lambda c: c.update(start={"modell": "toybox"}), "'start.modell'; did you mean start.model"),
        (lambda c: c["model"]["denoiser"].update(class_path="ediffi.registry.denoisers.unet_tuybox"), "unet_toybox"),
        (lambda c: c["model"]["denoiser"].update(init_args={"chanels": 3}), "init_args.chanels"),
    ],
)
def test_a_misspelt_setting_is_named(tmp_path: Path, change: Change, sentence: str) -> None:
    path = changed(tmp_path, change)
    for words in (["--config", path], [f"--config={path}"], ["--trainer.max_steps", "1", "-c", path]):
        with pytest.raises(UsageError) as error:
            recipe_check.check(words)
        assert str(error.value).startswith(path)
        assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            rename("lr", "lrr", "model", "optimizer", "init_args"),
            "'model.optimizer.init_args.lrr'; did you mean model.o",
        ),
        (rename("pct_start", "pct_stat", "model", "lr_scheduler", "init_args"), "lr_scheduler.init_args.pct_start"),
        (
            lambda c: c["trainer"]["callbacks"][1]["init_args"].update(save_lsat=True),
            "'trainer.callbacks.1.init_args.save_lsat'; did you mean trainer.callbacks.1.init_args.save_last",
        ),
        (lambda c: c["trainer"].update(default_root_dir="${oc.env:X}"), "trainer.default_root_dir is '${oc.env:X}'"),
    ],
)
def test_a_misspelt_argument_of_any_class_is_named(tmp_path: Path, change: Change, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        recipe_check.check(["--config", changed(tmp_path, change)])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--trainer.max_step=3"], "'trainer.max_step'; did you mean trainer.max_steps"),
        (["--model.denoiser.init_args.chanels", "3"], "did you mean model.denoiser.init_args.channels"),
        (["--model.optimizer.lrr", "3"], "did you mean model.optimizer.lr"),
        (["--model.optimizer", "torch.optim.SGD", "--model.optimizer.momentun", "1"], "model.optimizer.momentum"),
        (["--model.denoiser", "unet_tuybox"], "no denoiser named 'unet_tuybox'; did you mean unet_toybox"),
        (["--model.denoiser", "unet_toybox"], "write ediffi.registry.denoisers.unet_toybox"),
        (["--optimizer.lr", "3"], "--optimizer.lr would replace model.optimizer and its schedule"),
        (["--lr_scheduler=StepLR"], "--lr_scheduler would replace model.lr_scheduler"),
        (
            ["--trainer.default_root_dir", "${oc.env:X}"],
            "--trainer.default_root_dir is '${oc.env:X}', and a recipe",
        ),
        (["--data.train=${X}"], "--data.train is '${X}', and a recipe has no variables"),
    ],
)
def test_a_misspelt_option_is_named(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        recipe_check.check(["--config", str(BASE), *words])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.optimizer", "SGD", "--model.optimizer.momentum", "0.9"],
        ["--trainer.callbacks.init_args.decay", "0.9"],
        ["--model.noise.mean", "1", "--start.lora.rank", "2", "--data.crop_size=8"],
        ["--print_config", "--model.help", "--model.denoiser.help"],
    ],
)
def test_options_that_are_right_or_not_certain_pass(words: list[str]) -> None:
    recipe_check.check(["--config", str(BASE), *words])


def test_a_recipe_that_ships_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    file = str(folder() / "toybox" / "base.yaml")
    assert recipe_check.resolved(["--config", "toybox/base", "-x"]) == ["--config", file, "-x"]
    assert recipe_check.resolved(["--config=toybox/base"]) == [f"--config={file}"]
    with pytest.raises(FileNotFoundError, match="no recipe named 'toybox/bass'; did you mean toybox/base"):
        recipe_check.resolved(["--config", "toybox/bass"])


def test_a_schedule_finds_its_recipe_beside_it_or_among_those_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    schedule = Path(shutil.copy(folder() / "toybox" / "experts_sr64.yaml", tmp_path))
    words = ["--config", str(schedule)]
    assert recipe_check.node_recipe(words) == ["--recipe", str(folder() / "toybox" / "sr64.yaml")]
    beside = Path(shutil.copy(folder() / "toybox" / "sr64.yaml", tmp_path))
    assert recipe_check.node_recipe(words) == ["--recipe", str(beside)]
    assert recipe_check.node_recipe([*words, "--recipe", "own.yaml"]) == []
    schedule.write_text("recipe: nowhere.yaml")
    assert recipe_check.node_recipe(words) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "in line"), ("- model", "it holds list"), ("data: {}\ndata: {}", "'data' is there twice in line 2")],
)
def test_what_is_no_recipe_is_said(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=rf"r\.yaml is not a recipe: .*{sentence}"):
        recipe_check.check(["--config", str(tmp_path / "r.yaml")])


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["model"]["denoiser"].update(class_path="shapeworks.unet", init_args={"anything": 1}),
        lambda c: c["model"].update(denoiser="ediffi.registry.denoisers.unet_toybox"),
        lambda c: c["model"]["denoiser"].update(class_path="ediffi.registry.denoisers.Preconditioned", init_args={}),
        lambda c: c.update({"trainer.max_steps": 3, "data.nothing": 1}),
        lambda c: c.update(data="data.yaml", optimizer=None, start={"weights": "w.safetensors"}),
        lambda c: c["model"].update(denoiser={"class_path": None}),
    ],
)
def test_what_it_cannot_be_certain_of_it_leaves_to_the_parser(tmp_path: Path, change: Change) -> None:
    recipe_check.check(["--config", changed(tmp_path, change)])


@pytest.mark.parametrize("words", [["--config", "{seed_everything: 3}"], ["--config"], ["--config="], [], ["-h"]])
def test_settings_in_the_place_of_a_file_are_left_to_the_parser(words: list[str]) -> None:
    recipe_check.check(words)


@pytest.mark.parametrize("subcommand", ["fit", "validate"])
def test_it_knows_every_setting_that_the_parser_knows(
    subcommand: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([subcommand, "--config", str(BASE), "--print_config"])
    whole = yaml.safe_load(capsys.readouterr().out)
    assert set(whole) <= set(recipe_check.TOP)
    for group in recipe_check.GROUPS:
        assert set(whole[group]) == recipe_check.parameters(*recipe_check.GROUPS[group]), group
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    recipe_check.check(["--config", str(tmp_path / "whole.yaml")])
    names = recipe_check.names(recipe_check.DENOISERS)
    assert names is not None
    assert {*denoisers.names(), "Preconditioned"} <= names
    for name in denoisers.names():
        taken = inspect.signature(denoisers.REGISTRY.factory(name)).parameters
        assert recipe_check.parameters(recipe_check.DENOISERS, name) == set(taken), name


@pytest.mark.parametrize("path", sorted(folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_shipped_recipe_alarms_it(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    if "trainer" in content or "model" in content:
        recipe_check.check(["--config", str(path)])
