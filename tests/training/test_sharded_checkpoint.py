"""Checkpoints that each process writes its part of, while the training goes on: killed, resumed elsewhere, damaged."""

import os
import pickle
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.io import files, pickles
from ediffi.training import checkpoint as checkpoints
from ediffi.training.shard_reader import DIGESTS, METADATA, SHARDS, filled
from ediffi.training.sharded_checkpoint import SUFFIX, sweep
from tests.training import forked
from tests.training.test_survival import distance, last, tensors, write

pytestmark = [pytest.mark.filterwarnings(f"ignore:{line}") for line in (*QUIET, ".*Checkpoint directory.*")]
FSDP2 = "lightning.pytorch.strategies.ModelParallelStrategy"
Stage = Callable[..., Path]
ONE_BATCH = ("--trainer.limit_val_batches", "1")


@pytest.fixture
def stage(recipe: Callable[..., Path], tmp_path: Path) -> Stage:
    """A tiny base stage, saved every other step, under FSDP2 unless it is not sharded."""

    def of(
        name: str, steps: int, ranks: int = 1, each: int = 1, sharded: bool = True, every: int = 2, **trainer: Any
    ) -> Path:
        path = write(recipe, tmp_path / name, steps, data={"batch_size": 8 // ranks})
        config = yaml.safe_load(path.read_text())
        arguments = {"data_parallel_size": ranks // each, "tensor_parallel_size": each}
        if sharded:
            config["trainer"]["strategy"] = {"class_path": FSDP2, "init_args": arguments}
        config["trainer"] |= {"devices": ranks, **trainer}
        config["trainer"]["callbacks"][1]["init_args"]["every_n_train_steps"] = every
        path.write_text(yaml.safe_dump(config))
        return path

    return of


def fit(recipe: Path, ranks: int, *words: str) -> None:
    forked.wait(forked.start(["fit", "--config", str(recipe), *words], ranks))


def content(recipe: Path) -> dict[str, Any]:
    """Of the last checkpoint, whole."""
    return filled(last(recipe), pickles.read(last(recipe)))


def apart(one: Path, two: Path) -> float:
    states = [content(recipe) for recipe in (one, two)]
    assert states[0]["global_step"] == states[1]["global_step"]
    return distance(*(dict(tensors(state)) for state in states))


def folders(recipe: Path) -> list[Path]:
    return sorted(last(recipe).parent.glob(f"*{SUFFIX}"))


def test_two_processes_end_as_one_and_go_on_as_two_or_one(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    """To rounding; and a run of two that goes on as two ends in the same bits. All of them validate alike: one process
    a checkpoint that is named, and two processes the run's own."""
    whole, both = stage("whole", 4, sharded=False), stage("both", 4, 2)
    assert main(["fit", "--config", str(whole)]) == 0
    fit(both, 2)
    assert apart(whole, both) < 1e-4
    two = stage("two", 2, 2)
    fit(two, 2)
    shutil.copytree(two.parent, two.parent.with_name("one"))
    fit(stage("two", 4, 2), 2)
    assert apart(two, both) == 0
    one = stage("one", 4, sharded=False)
    assert main(["fit", "--config", str(one)]) == 0
    assert apart(one, both) < 1e-4
    assert [len(folders(recipe)) for recipe in (both, two, one)] == [1, 1, 0], "what no checkpoint names is removed"
    assert checkpoints.read(last(both)).weights.keys() == checkpoints.read(last(whole)).weights.keys()
    losses = []
    for recipe in (whole, both):
        assert main(["validate", "--config", str(whole), "--ckpt_path", str(last(recipe)), *ONE_BATCH]) == 0
        losses.append(loss(capfd))
    losses += [loss_of_two(recipe, capfd) for recipe in (both, stage("one", 4, 2))]  # sharded, and one whole file
    assert losses[1:] == pytest.approx([losses[0]] * 3, rel=1e-4)


@pytest.mark.slow
def test_other_numbers_of_processes_go_on(stage: Stage) -> None:
    """One that is sharded, four, four of which two have copies."""
    both = stage("both", 4, 2)
    fit(both, 2)
    two = stage("two", 2, 2)
    fit(two, 2)
    for name, ranks, each in (("one", 1, 1), ("four", 4, 1), ("copies", 4, 2)):
        shutil.copytree(two.parent, two.parent.with_name(name))
        recipe = stage(name, 4, ranks, each)
        fit(recipe, ranks)
        assert apart(recipe, both) < 1e-4, name
        assert len(folders(recipe)) == 1
        again = stage(name, 5, 2)
        fit(again, 2)
        assert content(again)["global_step"] == 5


def loss_of_two(recipe: Path, captured: pytest.CaptureFixture[str]) -> float:
    """By two processes, of the run's own checkpoint."""
    forked.wait(forked.start(["validate", "--config", str(recipe), *ONE_BATCH], 2))
    return loss(captured, f"validating {last(recipe)}, at step ")


def loss(captured: pytest.CaptureFixture[str], said: str = "") -> float:
    """The last one printed, where something else is `said` too."""
    printed = captured.readouterr().out
    assert said in printed
    line = next(line for line in reversed(printed.splitlines()) if "val/loss " in line)
    return float(line.replace("\u2502", " ").split()[-1])


def wait_for_another(recipe: Path, running: int) -> None:
    """Until a new checkpoint is whole."""
    before = last(recipe).stat().st_mtime_ns if last(recipe).exists() else 0
    while not last(recipe).exists() or last(recipe).stat().st_mtime_ns == before:
        forked.assert_running(running)
        time.sleep(0.002)


def kill_often(recipe: Path, kills: int, rng: random.Random, window: float) -> list[int]:
    """Kill -9 of both processes, each after some progress and a random wait; the last whole step each time."""
    steps = []
    for _ in range(kills):
        running = forked.start(["fit", "--config", str(recipe)], 2)
        wait_for_another(recipe, running)
        time.sleep(rng.uniform(0, window))
        forked.kill(running)
        steps.append(content(recipe)["global_step"])
    return steps


def test_killed_at_any_moment_the_last_whole_one_stays(stage: Stage) -> None:
    whole, killed = stage("whole", 8, 2, every=8), stage("killed", 8, 2, every=1)
    fit(whole, 2)
    (step,) = kill_often(killed, 1, random.Random(0), 0.1)
    assert 0 < step <= 8
    fit(killed, 2)
    assert apart(whole, killed) == 0
    assert len(folders(killed)) == 1


@pytest.mark.slow
def test_killed_twenty_times_the_last_whole_one_stays(stage: Stage) -> None:
    whole, killed = stage("whole", 150, 2, every=150), stage("killed", 150, 2, every=1)
    fit(whole, 2)
    steps = kill_often(killed, 20, random.Random(1), 1.0)
    print(steps)
    assert steps == sorted(steps)
    fit(killed, 2)
    assert apart(whole, killed) == 0


@pytest.fixture(scope="module")
def saved(recipe: Callable[..., Path], new_folder: Callable[[str], Path]) -> Path:
    """A run of two steps in bfloat16, each step kept; only read it."""
    path = write(recipe, new_folder("saved") / "run", 2, data={"batch_size": 8})
    config = yaml.safe_load(path.read_text())
    config["trainer"] |= {"strategy": {"class_path": FSDP2}, "devices": 1, "precision": "bf16-mixed"}
    kept = {"every_n_train_steps": 1, "save_top_k": -1, "save_last": True, "filename": "{step}"}
    config["trainer"]["callbacks"][1]["init_args"] = kept
    path.write_text(yaml.safe_dump(config))
    fit(path, 1)
    return path


def copied(saved: Path, folder: Path) -> Path:
    shutil.copytree(saved.parent, folder / "run")
    config = (folder / "run" / "base.yaml").read_text().replace(str(saved.parent), str(folder / "run"))
    (folder / "run" / "base.yaml").write_text(config)
    written = folder / "run" / "base" / "config.yaml"
    written.write_text(written.read_text().replace(str(saved.parent), str(folder / "run")))
    return folder / "run" / "base.yaml"


def test_every_step_is_kept_and_the_last_one_shares_its_shards(saved: Path) -> None:
    place = last(saved).parent
    assert {path.name for path in place.glob("*.ckpt")} == {"last.ckpt", "step=1.ckpt", "step=2.ckpt"}
    named = {path.name: pickles.read(path)[SHARDS]["folder"] for path in place.glob("*.ckpt")}
    assert named["last.ckpt"] == named["step=2.ckpt"] != named["step=1.ckpt"]
    assert {path.name for path in folders(saved)} == set(named.values())
    small = max(path.stat().st_size for path in place.glob("*.ckpt"))
    assert small < sum(path.stat().st_size for path in folders(saved)[0].iterdir()) / 3
    first, second = (checkpoints.read(place / f"step={step}.ckpt") for step in (1, 2))
    assert (first.expert.steps, second.expert.steps) == (1, 2)
    assert any(not torch.equal(value, second.weights[name]) for name, value in first.weights.items())
    assert all(value.dtype == torch.float32 for value in second.weights.values())


def test_shards_that_no_checkpoint_names_are_removed(saved: Path, tmp_path: Path) -> None:
    place = last(copied(saved, tmp_path)).parent
    (place / f"step-9-0{SUFFIX}").mkdir()
    shared = pickles.read(place / "last.ckpt")[SHARDS]["folder"]
    (place / "last.ckpt").unlink()
    (place / "step=1.ckpt").unlink()
    (place / "notes.txt").write_text("of no interest")
    sweep(place)
    assert [path.name for path in place.glob(f"*{SUFFIX}")] == [shared], "step=2.ckpt names it"
    (place / "step=2.ckpt").write_bytes(b"broken")
    sweep(place)
    assert len(list(place.glob(f"*{SUFFIX}"))) == 1, "which ones a broken file names is not known"


def test_damaged_shards_are_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = copied(saved, tmp_path)
    place = last(recipe)
    folder = place.parent / pickles.read(place)[SHARDS]["folder"]
    file = next(folder.glob("*.distcp"))
    whole = file.read_bytes()
    file.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    words = ["fit", "--config", str(recipe), "--trainer.strategy", "auto", "--trainer.max_steps", "3"]
    assert main([*words, "--ckpt_path", "last"]) == 1
    assert f"{file.name} has sha256 " in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(ValueError, match="truncated or changed"):
        checkpoints.read(place)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"distcp is missing"):
        checkpoints.read(place)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=r"\.metadata is missing"):
        checkpoints.read(place)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_code_in_the_metadata_is_not_run(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are files read that lie elsewhere."""
    monkeypatch.chdir(tmp_path)
    place = last(copied(saved, tmp_path))
    content = checkpoints.sealed(place)
    metadata = place.parent / content[SHARDS]["folder"] / METADATA
    metadata.write_bytes(pickle.dumps(Hostile()))
    content[SHARDS][DIGESTS][METADATA] = files.sha256(metadata)
    place.unlink()  # it is mapped
    torch.save(content, place)
    with pytest.raises(ValueError, match=r"broken, or holds code: (posix|nt)\.system is not read"):
        checkpoints.read(place)
    assert not (tmp_path / "executed").exists()
    content[SHARDS]["folder"] = "../elsewhere"
    place.unlink()  # it is mapped
    torch.save(content, place)
    with pytest.raises(ValueError, match=r"shards in \.\./elsewhere, which is not beside it"):
        checkpoints.read(place)
