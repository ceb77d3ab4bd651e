"""Recipes: each parses, trains two steps at small size, and becomes a cascade that paints."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.cli.recipes import folder
from ediffi.pipeline.cascade import Cascade
from ediffi.toybox.record import record

RECIPES = folder() / "toybox"
STAGES = ("base", "sr64", "sr256")
Recipe = Callable[..., Path]
pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]


def parsed(capsys: pytest.CaptureFixture[str], *names: str) -> dict:
    """What a recipe, and others over it, come to."""
    configs = [word for name in names for word in ("--config", str(RECIPES / f"{name}.yaml"))]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *configs, "--print_config"])
    assert stop.value.code in (None, 0)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("stage", [*STAGES, "base_controls"])
def test_every_recipe_parses(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(capsys, stage)
    schedule = config["model"]["lr_scheduler"]["init_args"]
    assert (schedule["total_steps"], schedule["max_lr"]) == (None, None), "the run's steps, the optimizer's rate"


def test_ablations_differ_in_their_encoders_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configs = {name: parsed(capsys, "base", f"ablation/{name}") for name in ("t5", "clip", "both")}
    sources = {name: config["model"]["denoiser"]["init_args"].pop("tokens") for name, config in configs.items()}
    pooled = {name: config["model"]["denoiser"]["init_args"].pop("pooled") for name, config in configs.items()}
    assert {name: set(tokens) for name, tokens in sources.items()} == {
        "t5": {"t5"},
        "clip": {"clip_text"},
        "both": {"clip_text", "t5"},
    }
    assert {name: set(widths) for name, widths in pooled.items()} == {
        "t5": set(),
        "clip": {"clip_text"},
        "both": {"clip_text"},
    }
    same = {name: yaml.safe_dump(config).replace(f"ablation-{name}", "run") for name, config in configs.items()}
    assert same["t5"] == same["clip"] == same["both"]


def test_a_log_tells_the_progress_of_a_run_and_nothing_else(
    tmp_path: Path, recipe: Recipe, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ediffi.io.progress.EVERY", 0.0)
    words = ["--trainer.enable_progress_bar", "true", "--model.denoiser.init_args.channels", "32"]
    assert main(["fit", "--config", str(recipe("base", tmp_path)), *words]) == 0
    out, err = capfd.readouterr()
    lines = re.findall(r"(?m)^\d\d:\d\d:\d\d fit: step (\d) of 2, .*step.*, \d\d:\d\d gone, \d\d:\d\d left(.*)$", out)
    assert [step for step, _ in lines[:2]] == ["1", "2"]
    assert re.match(r", loss=\d\S*, val=\d\S*, samples/s=\d", lines[-1][1])
    assert re.search(r"(?m)^\d,?\d+\S* parameters to train$", out)
    assert not re.search("Epoch|Tip|FLOPs", out + err)


@pytest.mark.parametrize(("precision", "told"), [("bf16-mixed", 1), ("32-true", 0)])
def test_a_precision_that_is_slow_here_is_told(
    precision: str, told: int, tmp_path: Path, recipe: Recipe, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ediffi.io.devices.computes_bfloat16", lambda device: False)
    words = ["--trainer.precision", precision, "--model.denoiser.init_args.channels", "32"]
    assert main(["fit", "--config", str(recipe("base", tmp_path)), *words]) == 0
    said = "this cpu emulates bfloat16, many times slower than float32; --trainer.precision 32-true is faster"
    assert "".join(capfd.readouterr()).count(said) == told


def test_three_recipes_become_a_cascade_that_paints(tmp_path: Path, recipe: Recipe) -> None:
    for stage in STAGES:
        assert main(["fit", "--config", str(recipe(stage, tmp_path))]) == 0
        events = EventAccumulator(str(tmp_path / stage)).Reload()
        tags = set(events.Tags()["scalars"])
        assert {"train/loss", "train/grad_norm", "train/samples_per_s", "train/data_wait", "val/loss"} <= tags
        assert {f"val/loss_band{band}" for band in range(4)} & tags, "of those with a sample"
        assert 0 < events.Scalars("train/data_wait")[-1].value < 1
        assert events.Tags()["images"] == ["samples"]
    record([tmp_path / stage for stage in STAGES], tmp_path / "record")
    written = json.loads((tmp_path / "record" / "training.json").read_text())["stages"]
    assert [(stage["steps"], stage["samples"]) for stage in written.values()] == [(2, 8)] * 3
    config = yaml.safe_load((RECIPES / "cascade.yaml").read_text())
    for entry in config["stages"]:
        entry["run"] = str(tmp_path / entry["name"])
        entry["sampling"]["num_inference_steps"] = 2
    (tmp_path / "cascade.yaml").write_text(yaml.safe_dump(config))
    words = ["compose", "--config", str(tmp_path / "cascade.yaml"), "--output", str(tmp_path / "model")]
    assert main(words) == 0
    image = Cascade.from_pretrained(tmp_path / "model")("a red circle").images[0]
    assert image.size == (256, 256)
    assert main(words) == 1, "a second time the folder exists"


def test_a_run_is_resumed_and_validated_from_the_command_line(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(recipe("base", tmp_path))]) == 0
    last = str(tmp_path / "base" / "checkpoints" / "last.ckpt")
    config = str(recipe("base", tmp_path, steps=4))
    assert main(["fit", "--config", config, "--ckpt_path", last]) == 0
    assert main(["validate", "--config", config, "--ckpt_path", last]) == 0
    assert "val/loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.denoiser.init_args.chanels", "3"], "chanels"),
        (["--model.denoiser.init_args.channels", "wide"], "wide"),
        (["--model.denoiser", "ediffi.registry.denoisers.unet_tuybox"], "unet_tuybox"),
        (["--data.batch_size", "0"], "batch_size must be positive, got 0"),
        (["--data.crop_size", "99"], "crop_size must be in 1 to image_size"),
        (["--data.train", "nowhere"], "no index.json in nowhere"),
        (["--trainr.max_steps", "3"], "trainr"),
        (["--ckpt_path", "nothing.ckpt"], "nothing.ckpt"),
        (["--seed_everything", "-1"], "--seed_everything: it must be a whole number from 0 to 4294967295, got '-1'"),
        (
            ["--seed_everything", "true"],
            "a whole number from 0 to 4294967295, got 'true'",
        ),
        (["--config", "seed_everything: false"], 'seed_everything": it must be a whole number from 0 to'),
        (["--model.optimizer", "torch.optim.Nope"], "model.optimizer\": module 'torch.optim' has no attribute 'Nope'"),
        (["--model.dropout", "{t5: 7}"], "dropout of t5 must be in [0, 1], got 7"),
    ],
)
def test_bad_settings_are_one_clear_line(
    words: list[str], message: str, tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(recipe("base", tmp_path)), *words]) != 0
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: ")
    assert message in line


def test_a_loss_that_is_not_a_number_ends_the_run_in_one_line(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(recipe("base", tmp_path, steps=14))
    diverging = ["--model.lr_scheduler.init_args.max_lr", "1e30", "--model.lr_scheduler.init_args.total_steps", "20"]
    assert main(["fit", "--config", config, *diverging]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: the loss is ")
    assert "for 10 steps in a row, now at step 11; lower the learning rate" in line


def test_a_misspelt_key_in_the_recipe_is_named(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe("base", tmp_path)
    path.write_text(path.read_text().replace("val_batches:", "val_batchs:"))
    assert main(["fit", "--config", str(path)]) == 2
    assert "val_batchs" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_that_is_not_there_cannot_be_composed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((RECIPES / "cascade.yaml").read_text())
    config["stages"] = [{"name": "base", "run": str(tmp_path / "nothing"), "resolution": 16}]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert main(["compose", "--config", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "model")]) == 1
    assert "is the run finished?" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
