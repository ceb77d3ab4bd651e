"""What a run trains on is what its recipe says: seed, samples, rate, sources; after a stop and a restart too."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.data.index import Index, write_index
from ediffi.data.shards import read_shard, write_tar
from ediffi.data.stream import Batch
from ediffi.diffusion.noise import ROOT, LogNormal
from ediffi.registry import denoisers
from ediffi.training import resume
from ediffi.training.callbacks import optimizer_settings, preemption
from ediffi.training.lightning_module import DiffusionStage
from tests.training.test_survival import assert_equal, content, error, fault, last, write

pytestmark = [pytest.mark.filterwarnings(f"ignore:{line}") for line in (*QUIET, ".*Checkpoint directory.*")]
Recipe = Callable[..., Path]
Step = dict[str, Any]
ONE = ("--trainer.limit_val_batches", "1")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Step]]:
    """What every training step of this test has seen."""
    seen: list[Step] = []
    train = DiffusionStage.training_step

    def record(self: DiffusionStage, batch: Batch, batch_idx: int) -> torch.Tensor:
        (group,) = self.trainer.optimizers[0].param_groups
        drawn = self._randomness(batch, "training")
        seen.append({"index": batch.index, "keys": batch.keys, "noise": (drawn.seed, *drawn.indices), **group})
        return train(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionStage, "training_step", record)
    return seen


def fit(recipe: Path, *words: str) -> int:
    return main(["fit", "--config", str(recipe), *words])


def test_the_seed_of_the_run_is_that_of_order_and_noise(recipe: Recipe, tmp_path: Path, steps: list[Step]) -> None:
    def run(name: str, *words: str) -> list[Step]:
        steps.clear()
        assert fit(write(recipe, tmp_path / name, 2), *words) == 0
        return list(steps)

    zero, one = run("zero"), run("one", "--seed_everything", "1")
    assert [step["noise"][0] for step in (*zero, *one)] == [0, 0, 1, 1]
    assert [step["keys"] for step in zero] != [step["keys"] for step in one]
    named = run("named", "--seed_everything", "1", "--model.seed", "7", "--data.seed", "0")
    assert [step["keys"] for step in named] == [step["keys"] for step in zero], "the recipe's own"
    assert {step["noise"][0] for step in named} == {7}
    assert fit(tmp_path / "one" / "base.yaml", "--data.seed", "1", "--seed_everything", "1") == 0, "it is the same seed"


def test_the_stream_goes_on_in_epochs_of_a_few_batches(recipe: Recipe, tmp_path: Path, steps: list[Step]) -> None:
    """Also after a stop in the middle of an epoch, and one at its end."""
    limits = ["--trainer.limit_train_batches", "3", "--trainer.check_val_every_n_epoch", "1"]
    limits += ["--trainer.val_check_interval", "null"]
    path = write(recipe, tmp_path / "run", 4)
    for end in ("4", "6", "9"):
        assert fit(path, *limits, "--trainer.max_steps", end) == 0
    assert [step["index"] for step in steps] == list(range(9))
    assert len({position for step in steps for position in step["noise"][1:]}) == 9 * 4
    assert [file.name for file in last(path).parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.overfit_batches", "2"], "trainer.overfit_batches 2"),
        (
            ["--trainer.limit_train_batches", "3", "--trainer.accumulate_grad_batches", "2"],
            "trainer.limit_train_batches 3 must be whole steps, and trainer.accumulate_grad_batches 2",
        ),
        (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches must be at least 1, or 1.0 for all"),
    ],
)
def test_what_would_repeat_batches_or_cut_a_step_is_refused(
    words: list[str], message: str, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(write(recipe, tmp_path / "run"), *words) == 1
    assert message in error(capsys)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LearningRateFinder", {}),
        ("StochasticWeightAveraging", {"swa_lrs": 0.01, "device": "cpu"}),
        ("BatchSizeFinder", {}),
        ("GradientAccumulationScheduler", {"scheduling": {0: 1, 1: 2}}),
    ],
)
def test_callbacks_that_set_another_rate_or_step_are_refused(
    name: str, arguments: dict[str, Any], recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}
    assert fit(write(recipe, tmp_path / "run", 2, [theirs])) == 1
    assert f"the callback {name} " in error(capsys)


def test_a_resumed_run_has_the_rate_and_decay_of_its_recipe(
    recipe: Recipe, tmp_path: Path, steps: list[Step], capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = (write(recipe, tmp_path / name, 4) for name in ("run", "whole"))
    new = ["--model.optimizer.init_args.lr", "2e-5", "--model.optimizer.init_args.weight_decay", "0.5"]
    new += ["--trainer.max_steps", "7", "--model.lr_scheduler.init_args.total_steps", "null"]
    assert fit(whole, *new) == 0
    wanted = [(step["lr"], step["weight_decay"]) for step in steps]
    assert fit(path) == 0
    assert fit(path, *new) == 1
    assert "pass --ckpt_path last" in error(capsys)
    steps.clear()
    assert fit(path, *new, "--ckpt_path", "last") == 0
    assert [(step["lr"], step["weight_decay"]) for step in steps] == wanted[4:]
    assert max(rate for rate, _ in wanted) <= 2e-5
    assert "from step 4 on, model.optimizer.init_args.lr is 2e-05; it was 0.002" in capsys.readouterr().out
    kept, now = (yaml.safe_load((path.parent / "base" / f"config{end}.yaml").read_text()) for end in ("-to-step-4", ""))
    assert yaml.safe_load((path.parent / "base" / "hparams.yaml").read_text())["model.optimizer.init_args.lr"] == 2e-5
    assert [one["model"]["optimizer"]["init_args"]["lr"] for one in (kept, now)] == [0.002, 2e-5]
    assert fit(path, *new, "--ckpt_path", "last", "--start.checkpoint", str(last(whole))) == 1
    assert f"a run that began with start.checkpoint None, not {last(whole)}" in error(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.batch_size", "2"], "the checkpoint is of a run with 4 samples a step, this one has 2"),
        (["--model.dropout", "{my_text: 0.1}"], "model.dropout names 'my_text'"),
        (["--data.train", "nowhere"], "nowhere"),
        (["--trainer.max_steps", "1"], None),
    ],
)
def test_what_trains_no_step_leaves_the_recipe_of_a_run(
    words: list[str], message: str | None, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though another rate was to go on with it; refused at the checkpoint, the first batch, the shards, or done."""
    path = copied(done, tmp_path)
    before = {file.name: file.read_bytes() for file in (path.parent / "base").glob("*.yaml")}
    rate = ["--trainer.max_steps", "4", "--model.optimizer.init_args.lr", "0.5", "--ckpt_path", "last"]
    assert fit(path, *rate, *words) == (message is not None)
    if message is None:
        assert "from step" not in capsys.readouterr().out
    else:
        assert message in error(capsys)
    assert {file.name: file.read_bytes() for file in (path.parent / "base").glob("*.yaml")} == before
    assert fit(path) == 0, "it is the run of its recipe still"


def test_a_validation_without_what_the_network_reads_is_refused(
    done: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the index, or by the first batch where the index does not know: a loss without captions was measured."""
    path, shard = copied(done, tmp_path), Index.read(shard_folder).shards[0]
    for folder, encoders, told in (
        ("new", {"t5": "t5"}, "have no embeddings 'clip_text'; they have t5"),
        ("old", {}, "the network reads 'clip_image', and the data has t5: embed it, or leave it out of the denoiser"),
    ):
        (place := tmp_path / folder).mkdir()
        entry = write_tar(place / "00000.tar", map(with_t5_alone, read_shard(shard.url)))
        write_index(place / "index.json", [{"file": "00000.tar", **entry}], {"encoders": encoders})
        words = ["validate", "--config", str(path), "--data.val", str(place), "--trainer.limit_val_batches"]
        assert main([*words, "1"]) == 1
        assert told in error(capsys)
    assert main([*words, "0"]) == 1
    assert "trainer.limit_val_batches is 0, so that there is nothing to measure" in error(capsys)


def with_t5_alone(sample: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in safetensors.torch.load(sample["safetensors"]).items() if k.startswith("t5.")}
    return {**sample, "safetensors": safetensors.torch.save(kept)}


SCHEDULE = {"class_path": "Cosine", "init_args": {"total_steps": 9}}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"lr_scheduler": SCHEDULE}, {"lr_scheduler": None}, ("lr_scheduler.class_path", "Cosine", None)),
        ({"lr_scheduler": None}, {"lr_scheduler": SCHEDULE}, ("lr_scheduler.class_path", None, "Cosine")),
        ({"optimizer": SCHEDULE}, {}, ("optimizer.class_path", "Cosine", None)),
        ({"dropout": None}, {"dropout": {"t5": 0.5}}, ("dropout.t5", None, 0.5)),
        ({"dropout": {}}, {"dropout": {"t5": 0.5}}, ("dropout.t5", None, 0.5)),
        ({"dropout": {}}, {"dropout": None}, ("dropout", {}, None)),
        ({"dropout": {"t5": 0.5}}, {"dropout": {"clip": 0.5}}, ("dropout.t5", 0.5, None)),
        ({"low_res": None}, {}, None),
    ],
)
def test_a_setting_that_only_one_recipe_has_is_a_change(
    old: dict[str, Any], new: dict[str, Any], told: tuple[str, Any, Any] | None
) -> None:
    changed = resume.changes({"model": old}, {"model": new})
    assert next(iter(changed.items()), None) == (told and (f"model.{told[0]}", told[1:]))


@pytest.mark.parametrize("trainer", [5, {"callbacks": 5}, {"callbacks": [5, {"class_path": 5}]}])
def test_a_damaged_recipe_of_a_run_is_another_one(trainer: Any) -> None:
    changed = resume.changes({"trainer": trainer}, {"trainer": {"gradient_clip_val": 1.0}})
    assert changed == {"trainer.gradient_clip_val": (None, 1.0)}


@pytest.fixture(scope="module")
def done(recipe: Recipe, new_folder: Callable[[str], Path]) -> Path:
    """A run of two steps; only read it."""
    path = write(recipe, new_folder("done"), 2)
    assert fit(path) == 0
    return path


def copied(done: Path, folder: Path) -> Path:
    shutil.copytree(done.parent, folder, dirs_exist_ok=True)
    for path in (folder / done.name, folder / "base" / "config.yaml"):
        path.write_text(path.read_text().replace(str(done.parent), str(folder)))
    return folder / done.name


def changed(recipe: Path, **model: Any) -> Path:
    config = yaml.safe_load(recipe.read_text())
    config["model"] |= model
    (place := recipe.with_name("changed.yaml")).write_text(yaml.safe_dump(config))
    return place


def test_a_run_goes_on_without_a_schedule_that_its_recipe_lacks_now(
    done: Path, tmp_path: Path, steps: list[Step], capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(done, tmp_path)
    without, more = changed(path, lr_scheduler=None), ["--trainer.max_steps", "4"]
    assert fit(without, *more) == 1
    schedule = "ediffi.training.one_cycle.OneCycle"
    assert f"a run with model.lr_scheduler.class_path {schedule}, this recipe has None and " in error(capsys)
    assert fit(without, *more, "--ckpt_path", "last") == 0
    assert [step["lr"] for step in steps] == [2e-3, 2e-3]
    assert f"from step 2 on, model.lr_scheduler.class_path is None; it was {schedule}" in capsys.readouterr().out


ADAM = {"lr": 0.1, "betas": (0.5, 0.9)}


@pytest.mark.parametrize(
    ("old", "new", "own", "told"),
    [
        (("AdamW", ADAM), ("AdamW", {**ADAM, "lr": 0.2}), True, None),
        (("AdamW", ADAM), ("Adam", ADAM), True, None),
        (("SGD", {"momentum": 0.9}), ("SGD", {"momentum": 0.5}), True, None),
        (("Adafactor", {}), ("Adafactor", {}), True, None),
        (("LBFGS", {}), ("LBFGS", {}), True, None),
        (("AdamW", ADAM), ("AdamW", {**ADAM, "amsgrad": True}), False, "keeps exp_avg, exp_avg_sq, max_exp_avg_sq"),
        (("AdamW", ADAM), ("Adagrad", {}), False, "exp_avg_sq, step), and Adagrad keeps step, sum: they"),
        (("AdamW", ADAM), ("SGD", {}), False, "SGD keeps none: they start anew"),
        (("SGD", {"momentum": 0.9}), ("AdamW", ADAM), False, "(momentum_buffer), and AdamW keeps exp_avg"),
    ],
)
def test_moments_of_another_optimiser_start_anew(
    old: tuple[str, dict[str, Any]],
    new: tuple[str, dict[str, Any]],
    own: bool,
    told: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They were a KeyError, in loading or in the first step."""
    weights = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]

    def made(name: str, settings: dict[str, Any]) -> torch.optim.Optimizer:
        built: torch.optim.Optimizer = getattr(torch.optim, name)(weights, **settings)
        return built

    def step(optimizer: torch.optim.Optimizer) -> float:
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step(lambda: 1.0)
        return float(weights[0].detach().sum())

    first, second, fresh = made(*old), made(*new), made(*new)
    step(first)
    optimizer_settings.keep_settings(second)
    second.load_state_dict(first.state_dict())
    expected = first if own else fresh
    assert str(second.state_dict()["state"]) == str(expected.state_dict()["state"])
    assert all(second.param_groups[0][key] == value for key, value in new[1].items())
    assert step(second) != 4, "it steps"
    assert (told or "") in caplog.text
    assert (told is not None) == bool(caplog.text)


def test_a_run_goes_on_with_another_optimiser(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied(done, tmp_path)
    adagrad = changed(path, optimizer={"class_path": "torch.optim.Adagrad", "init_args": {"lr": 0.01}})
    assert fit(adagrad, "--trainer.max_steps", "3", "--ckpt_path", "last") == 0
    assert "Adagrad keeps step, sum: they start anew" in capsys.readouterr().err
    assert set(content(path)["optimizer_states"][0]["state"][0]) == {"step", "sum"}


def test_the_recipe_of_an_earlier_version_is_read_with_the_defaults_of_this_one(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(done, tmp_path)
    place = path.parent / "base" / "config.yaml"
    config = yaml.safe_load(place.read_text())
    for group, name in ((config["model"]["denoiser"]["init_args"], "normalize_pooled"), (config["start"], "lora")):
        del group[name]
    place.write_text(yaml.safe_dump(config))
    assert fit(path) == 0
    assert fit(path, "--model.denoiser.init_args.normalize_pooled", "true") == 1
    assert "a run with model.denoiser.init_args.normalize_pooled False, this recipe has True" in error(capsys)
    place.write_text(yaml.safe_dump(config | {"data": {**config["data"], "gone": 5}}))
    assert fit(path) == 1
    assert "a run with data.gone 5, this recipe has None" in error(capsys)


def test_a_checkpoint_that_is_named_does_not_take_the_place_of_another_run(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, more = copied(done, tmp_path), ["--trainer.max_steps", "3", "--ckpt_path"]
    before = last(path).read_bytes()
    assert fit(path, *more, str(last(done))) == 1
    assert f"{path.parent / 'base'} has a run of its own, at step 2: train into another directory" in error(capsys)
    older = Path(shutil.copy(last(path), last(path).with_name("older.ckpt")))
    assert fit(path, *more, str(older), "--model.optimizer.init_args.lr", "0.5") == 1
    assert "a run with model.optimizer.init_args.lr 0.002, this recipe has 0.5" in error(capsys)
    assert last(path).read_bytes() == before
    assert fit(path, *more, str(older)) == 0
    assert content(path)["global_step"] == 3


def test_a_checkpoint_of_another_network_is_one_line(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(done, tmp_path)
    settings = yaml.safe_load(path.read_text())["model"]["denoiser"]
    narrow = changed(path, denoiser={**settings, "init_args": {**settings["init_args"], "channels": 8}})
    for words in (["validate", *ONE], ["fit", "--ckpt_path", "last", "--trainer.max_steps", "4"]):
        assert main([*words[:1], "--config", str(narrow), *words[1:]]) == 1
        assert "the checkpoint is of another network than the recipe's: its denoiser.network." in error(capsys)
    with pytest.raises(ValueError, match=r"its network\..* is \(.*\), the recipe's is \("):
        DiffusionStage.load_from_checkpoint(last(path), denoiser=denoisers.create("unet_toybox", channels=32))


def test_a_checkpoint_that_means_another_network_is_refused_and_other_noise_is_told(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the weights fit, by shape."""
    path = copied(done, tmp_path)
    other = ["--config", str(path), "--model.denoiser.init_args.sigma_data", "0.4"]
    for words in (["validate", *ONE], ["fit", "--ckpt_path", "last", "--trainer.max_steps", "4"]):
        assert main([words[0], *other, *words[1:]]) == 1
        told = "the checkpoint is of another network than the recipe's: its sigma_data is 0.6, the recipe's 0.4"
        assert told in error(capsys)
    words = ["validate", "--config", str(path), "--trainer.limit_val_batches", "1"]
    assert main([*words, "--model.noise.mean", "0.5"]) == 0
    warned = "the loss is on noise LogNormal(mean=0.5, std=1.2), and the checkpoint was trained on LogNormal(mean=-0.2"
    assert warned in capsys.readouterr().err
    assert main(words) == 0
    assert "the loss is on noise" not in capsys.readouterr().err


def test_a_checkpoint_of_weights_alone_is_not_resumed(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(recipe, tmp_path / "run", 2)
    config = yaml.safe_load(path.read_text())
    config["trainer"]["callbacks"][1]["init_args"]["save_weights_only"] = True
    path.write_text(yaml.safe_dump(config))
    assert fit(path) == 0
    assert fit(path, "--trainer.max_steps", "4") == 1
    assert "the checkpoint has weights only (save_weights_only), so no run goes on from it" in error(capsys)


def test_a_stage_is_loaded_from_its_checkpoint(done: Path) -> None:
    """By the call that every LightningModule has: network, averaged weights, noise and interval."""
    stage = DiffusionStage.load_from_checkpoint(last(done), map_location="cpu", dropout={"t5": 0.5})
    assert (stage.noise, stage.interval, stage.parent, stage.dropout) == (LogNormal(-0.2, 1.2), ROOT, None, {"t5": 0.5})
    averaged = content(done)["state_dict"]
    assert stage.state_dict().keys() == averaged.keys()
    assert all(torch.equal(value, averaged[name]) for name, value in stage.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt"):
        DiffusionStage.load_from_checkpoint(done.parent / "no.ckpt")


def test_a_run_whose_schedule_is_as_long_as_itself_is_extended(
    recipe: Recipe, tmp_path: Path, steps: list[Step]
) -> None:
    words = ["--model.lr_scheduler.init_args.total_steps", "null"]
    path = write(recipe, tmp_path / "run", 3)
    assert fit(path, *words) == 0
    assert fit(path, *words, "--trainer.max_steps", "6", "--ckpt_path", "last") == 0
    resumed = [step["lr"] for step in steps[3:]]
    steps.clear()
    assert fit(write(recipe, tmp_path / "long", 6), *words) == 0
    assert resumed == [step["lr"] for step in steps[3:]]


def test_validation_measures_the_run_and_never_random_weights(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(recipe, tmp_path / "run", 2, trainer={"limit_val_batches": 1})
    config = yaml.safe_load(path.read_text())
    config["trainer"]["callbacks"][1]["init_args"] |= {"save_last": False, "save_top_k": -1}
    path.write_text(yaml.safe_dump(config))
    assert main(["validate", "--config", str(path)]) == 1
    assert f"there is no checkpoint in {tmp_path / 'run' / 'base'} to validate" in error(capsys)
    assert fit(path) == 0
    assert fit(path, "--trainer.max_steps", "4") == 0, "it goes on from the checkpoint with a number"
    (folder,) = (tmp_path / "run").rglob("checkpoints")
    assert sorted(file.name for file in folder.iterdir()) == ["epoch=0-step=2.ckpt", "epoch=0-step=4.ckpt"]
    capsys.readouterr()
    assert main(["validate", "--config", str(path)]) == 0
    measured = capsys.readouterr().out
    assert "step=4.ckpt, at step 4" in measured
    assert main(["validate", "--ckpt_path", str(folder / "epoch=0-step=4.ckpt")]) == 0, "by the recipe of its run"
    assert losses(capsys.readouterr().out) == losses(measured)


def losses(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "val/loss" in line]


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_saves_the_step_and_a_second_one_ends_at_once(
    times: int, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr(preemption, "AGAIN_AFTER", 0.0)
    before = signal.getsignal(signal.SIGINT)
    interrupt = fault("Terminate", step=2, name="SIGINT", times=times)
    path = write(recipe, tmp_path / "run", 5, [interrupt])
    with pytest.raises(SystemExit) as stopped:
        fit(path)
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    printed = capsys.readouterr()
    assert "graceful" not in printed.out + printed.err
    if times == 2:
        assert "interrupted by Ctrl-C; nothing is saved" in printed.err
        assert content(path)["global_step"] == 2
        return
    assert "stopped by Ctrl-C at step 3; the same command resumes the run" in printed.out
    assert content(path)["global_step"] == 3
    whole = write(recipe, tmp_path / "whole", 5)
    assert fit(path) == fit(whole) == 0
    assert_equal(whole, path)


@pytest.fixture(scope="module")
def own_text(shard_folder: Path, new_folder: Callable[[str], Path]) -> Path:
    """Shards whose index does not tell the encoders of their embeddings."""
    place = Path(shutil.copytree(shard_folder, new_folder("own") / "shards"))
    index = json.loads((place / "index.json").read_text())
    del index["encoders"], index["sha256"]
    (place / "index.json").write_text(json.dumps(index))
    return place


def test_sources_are_those_of_the_data(
    recipe: Recipe, own_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(recipe, tmp_path / "run", 2)
    assert fit(path, "--model.dropout", "{my_text: 0.1}") == 1
    assert "model.dropout names 'my_text', and the data has clip_image, clip_text, t5" in error(capsys)
    lacking = ["--model.denoiser.init_args.tokens", "{my_text: 8}"]
    assert fit(path, *lacking) == 1
    assert "have no embeddings 'my_text'; they have clip_image, clip_text, t5" in error(capsys)
    assert fit(path, *lacking, "--data.train", str(own_text), "--data.val", str(own_text)) == 1
    assert "the network reads 'my_text', and the data has clip_image, clip_text, t5" in error(capsys)
    assert fit(path, "--model.dropout", "{clip_text: 0.1, clip_image: 0.9}") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "names no probability for 't5'" in line]
    assert len(said) == 1


BESIDE = """
import lightning as L

class Shout(L.Callback):
    def on_train_end(self, trainer, pl_module):
        print("from beside the recipe")
"""


def test_a_callback_beside_the_recipe_is_found_and_loggers_get_the_recipe(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDIFFI_IMPORTS", "callback_beside")
    monkeypatch.setattr("sys.path", [*sys.path])
    path = write(recipe, tmp_path / "run", 2, [{"class_path": "callback_beside.Shout"}])
    (path.parent / "callback_beside.py").write_text(BESIDE)
    assert fit(path) == 0
    assert "from beside the recipe" in capsys.readouterr().out
    (path.parent / "callback_beside.py").rename(tmp_path / "callback_beside.away")
    monkeypatch.delitem(sys.modules, "callback_beside")
    assert main(["validate", "--ckpt_path", str(last(path))]) == 2
    assert error(capsys).startswith(
        "ediffi: error: callback_beside.Shout cannot be imported, no module callback_beside"
    )
    logged = yaml.safe_load((path.parent / "base" / "hparams.yaml").read_text())
    assert logged["model.optimizer.init_args.lr"] == 0.002
    assert logged["model.denoiser.class_path"] == "ediffi.registry.denoisers.unet_toybox"
    assert logged["trainer.callbacks.0.init_args.decay"] == 0.999


@pytest.mark.filterwarnings("ignore")  # of wandb
def test_weights_and_biases_gets_the_recipe_offline(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["--trainer.logger", "WandbLogger", "--trainer.logger.save_dir", str(tmp_path)]
    assert fit(write(recipe, tmp_path / "run", 2), *words) == 0
    assert wandb.run.config["model.optimizer.init_args.lr"] == 0.002
    wandb.finish()
    wandb.teardown()  # its process may still write
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    for name in ("model.denoiser.class_path", "model.optimizer.init_args.lr", "trainer.callbacks.0.init_args.decay"):
        assert name.encode() in written.read_bytes()


def test_lightning_s_own_groups_do_not_replace_ours(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--optimizer", "SGD", "--optimizer.lr", "0.001"]
    assert fit(write(recipe, tmp_path / "run"), *words) == 2
    assert "--optimizer would replace model.optimizer and its schedule" in error(capsys)
