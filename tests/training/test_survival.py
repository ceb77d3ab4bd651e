"""Runs that are killed, signalled, dealt differently, starved of room, or meet another in their folder."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from filelock import FileLock

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.io import locks
from ediffi.training.callbacks import run_directory
from ediffi.training.callbacks.run_directory import AtomicCheckpointIO
from ediffi.training.finished_run import LOCK
from ediffi.training.sharding import prepare
from tests.training import forked

pytestmark = [pytest.mark.filterwarnings(f"ignore:{line}") for line in (*QUIET, ".*Checkpoint directory.*")]
HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
Recipe = Callable[..., Path]
Tiny = Callable[..., Path]


def write(
    recipe: Recipe, folder: Path, steps: int = 6, faults: list[dict[str, Any]] | None = None, **changes: Any
) -> Path:
    """A recipe of a tiny base stage, in a folder of its own, with settings of data and trainer changed."""
    folder.mkdir(exist_ok=True)
    path = recipe("base", folder, steps=steps)
    config = yaml.safe_load(path.read_text())
    config["model"]["denoiser"]["init_args"] |= {"channels": 16, "head_channels": 8, "norm_groups": 4}
    config["model"]["lr_scheduler"]["init_args"]["total_steps"] = 1000
    config["trainer"] |= {"limit_val_batches": 0, "enable_model_summary": False}
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"][:2], *(faults or [])]
    for part in ("data", "trainer"):
        config[part] |= changes.get(part, {})
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def tiny(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.syspath_prepend(HERE)  # where the recipes find their faults
    return lambda name, *args, **changes: write(recipe, tmp_path / name, *args, **changes)


def fault(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"faults.{kind}", "init_args": arguments}


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr that says what is wrong."""
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: ")
    return line


def last(recipe: Path) -> Path:
    return recipe.parent / "base" / "checkpoints" / "last.ckpt"


def content(recipe: Path) -> dict[str, Any]:
    return dict(torch.load(last(recipe), weights_only=True))


def tensors(state: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Averaged weights, weights, and the optimiser's state."""
    yield from ((f"average {key}", value) for key, value in state["state_dict"].items())
    yield from ((f"weights {key}", value) for key, value in state["current_model_state"].items())
    for index, moments in state["optimizer_states"][0]["state"].items():
        yield from ((f"optimiser {index} {key}", value) for key, value in moments.items())


def assert_equal(one: Path, two: Path) -> None:
    states = [content(recipe) for recipe in (one, two)]
    assert states[0]["global_step"] == states[1]["global_step"]
    pairs = list(zip(*(tensors(state) for state in states), strict=True))
    assert len(pairs) > 100
    assert not [name for (name, a), (_, b) in pairs if not torch.equal(a, b)]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(recipe: Path, *words: str, by: str = "lightning") -> "subprocess.Popen[str]":
    """`ediffi fit` in a process group of its own, which finds the faults of the tests, with as many threads as here."""
    launcher = TORCHRUN if by == "torchrun" else []
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "ediffi", "fit", "--config", str(recipe), *words],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | threads | {"PYTHONPATH": f"{TOP}{os.pathsep}{HERE}", "CUDA_VISIBLE_DEVICES": ""},
        cwd=TOP,
    )


def finish(recipe: Path) -> str:
    running = start(recipe)
    output = running.communicate()[0]
    assert running.returncode == 0, output
    return output


def fit(recipe: Path, *words: str) -> int:
    """`ediffi fit` in this process."""
    return main(["fit", "--config", str(recipe), *words])


def wait_for_a_checkpoint(recipe: Path, ended: Callable[[], Any]) -> None:
    """Until the last checkpoint is a new one; `ended` fails when the run has ended before."""
    before = last(recipe).stat().st_mtime_ns if last(recipe).exists() else 0
    while not last(recipe).exists() or last(recipe).stat().st_mtime_ns == before:
        ended()
        time.sleep(0.005)


def test_killed_at_any_moment_it_ends_in_the_same_bits(tiny: Tiny) -> None:
    whole, killed = (tiny(name, 24) for name in ("whole", "killed"))
    assert fit(whole) == 0
    for moment in (0.01, 0.04):
        running = forked.start(["fit", "--config", str(killed)])
        wait_for_a_checkpoint(killed, lambda running=running: forked.assert_running(running))
        time.sleep(moment)
        forked.kill(running)
    assert fit(killed) == 0
    assert_equal(whole, killed)


def kill_often(recipe: Path, kills: int, rng: random.Random, window: float) -> None:
    """Kill -9 of the whole group `kills` times, each after some progress and a random wait."""

    def ended(running: "subprocess.Popen[str]") -> None:
        assert running.poll() is None, f"it ended before it was killed: {running.communicate()[0]}"

    for _ in range(kills):
        running = start(recipe)
        wait_for_a_checkpoint(recipe, lambda running=running: ended(running))
        time.sleep(rng.uniform(0, window))
        ended(running)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_twenty_times_it_ends_in_the_same_bits(tiny: Tiny, ranks: int) -> None:
    trainer = {"devices": ranks, "strategy": "ddp" if ranks > 1 else "auto"}
    whole, killed = (tiny(name, 900, trainer=trainer) for name in ("whole", "killed"))
    finish(whole)
    kill_often(killed, 20, random.Random(ranks), 0.5)
    finish(killed)
    assert_equal(whole, killed)


def test_ranks_and_accumulation_give_the_weights_of_one_large_batch(tiny: Tiny) -> None:
    """A step of 8 samples: one batch; two accumulated; two processes that accumulate two batches of 2 each.

    To rounding, since sums are in another order; another seed of the data ends a hundred times as far away.
    """
    whole = tiny("whole", data={"batch_size": 8})
    accumulated = tiny("accumulated", data={"batch_size": 4}, trainer={"accumulate_grad_batches": 2})
    ddp = {"devices": 2, "strategy": "ddp_fork", "accumulate_grad_batches": 2}  # forked: nothing is imported again
    both = tiny("both", data={"batch_size": 2}, trainer=ddp)
    other = tiny("other", data={"batch_size": 8, "seed": 1})
    for recipe in (whole, accumulated, other, both):
        assert fit(recipe) == 0
    wanted = dict(tensors(content(whole)))
    apart = {recipe: distance(wanted, dict(tensors(content(recipe)))) for recipe in (accumulated, both, other)}
    assert max(apart[accumulated], apart[both]) < 1e-4 < 1e-2 < apart[other]


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference of the averages of the gradients, over the largest of them."""
    moments = [key for key in one if key.endswith("exp_avg")]
    difference = max((one[key] - two[key]).abs().max().item() for key in moments)
    return difference / max(one[key].abs().max().item() for key in moments)


@pytest.fixture(scope="module")
def done(recipe: Recipe, new_folder: Callable[[str], Path]) -> Path:
    """A run of two steps of 8 samples, done; and about how large its checkpoint was thought to be."""
    path = write(recipe, new_folder("done"), 2, data={"batch_size": 8})
    expected: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        ask = run_directory.checkpoint_bytes
        patch.setattr(run_directory, "checkpoint_bytes", lambda *args: expected.append(ask(*args)) or expected[-1])
        assert fit(path) == 0
    (path.parent / "expected").write_text(str(expected[0]))
    return path


def test_the_same_command_on_a_run_that_is_done(done: Path, capsys) -> None:
    written = last(done).stat().st_mtime_ns
    assert fit(done) == 0
    assert "is at step 2 of 2: this run is done" in capsys.readouterr().out
    assert last(done).stat().st_mtime_ns == written
    assert [path.name for path in last(done).parent.iterdir()] == ["last.ckpt"]


def test_the_expected_size_is_that_of_the_file(done: Path) -> None:
    assert last(done).stat().st_size == pytest.approx(int((done.parent / "expected").read_text()), rel=0.1)


def test_another_recipe_is_refused_in_the_folder_of_a_run(done: Path, capsys) -> None:
    config = done.parent / "base" / "config.yaml"
    before = last(done).read_bytes(), config.read_bytes()
    assert fit(done, "--data.seed", "5", "--model.optimizer.init_args.lr", "0.5") == 1
    line = error(capsys)
    assert "base has a run with model.optimizer.init_args.lr 0.002, this recipe has 0.5 and 1 more" in line
    assert (last(done).read_bytes(), config.read_bytes()) == before
    assert fit(done, "--trainer.max_steps", "4", "--data.batch_size", "4") == 1
    assert "the checkpoint is of a run with 8 samples a step, this one has 4" in error(capsys)
    config.rename(config.with_suffix(".away"))
    assert fit(done) == 1
    assert "has a checkpoint but no config.yaml" in error(capsys)
    config.with_suffix(".away").rename(config)


def test_a_run_goes_on_dealt_otherwise_or_with_another_recipe_if_told(tiny: Tiny, capsys) -> None:
    path = tiny("run", 2, data={"batch_size": 8})
    assert fit(path) == 0
    dealt = ["--data.batch_size", "4", "--trainer.accumulate_grad_batches", "2", "--data.num_workers", "1"]
    assert fit(path, *dealt, "--trainer.max_steps", "3") == 0
    assert "last.ckpt is at step 2 of 3: resuming" in capsys.readouterr().out
    assert content(path)["global_step"] == 3, "the last step is saved, though it is no multiple of 2"
    assert fit(path, "--data.seed", "5", "--ckpt_path", "last", "--trainer.max_steps", "4") == 0
    assert content(path)["global_step"] == 4
    assert [path.name for path in last(path).parent.iterdir()] == ["last.ckpt"]


def test_last_is_asked_for_and_there_is_none(tiny: Tiny, capsys) -> None:
    assert fit(tiny("run"), "--ckpt_path", "last") == 1
    assert "there is no last checkpoint in " in error(capsys)


def test_a_second_run_in_a_directory_is_refused(tiny: Tiny, capsys) -> None:
    path = tiny("run", 2)
    folder = path.parent / "base"
    folder.mkdir()
    with locks.hold(folder / LOCK):
        assert fit(path) == 1
    assert f"base is in use by process {os.getpid()} on " in error(capsys)
    assert not last(path).exists()
    assert fit(path) == 0
    assert not locks.note_of(folder / LOCK).exists(), "the lock is released"


def test_the_lock_of_a_killed_run_is_waited_for(tmp_path: Path) -> None:
    """Its loader processes may have it for a moment longer."""
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    lock = FileLock(tmp_path / LOCK, thread_local=False)
    lock.acquire()
    with pytest.raises(BlockingIOError, match="in use"):
        run_directory.RunDirectory(patience=0.1).setup(trainer, L.LightningModule(), "fit")
    threading.Timer(0.3, lock.release).start()
    waiting = run_directory.RunDirectory(patience=10)
    waiting.setup(trainer, L.LightningModule(), "fit")
    assert f"process {os.getpid()} " in locks.holder(tmp_path / LOCK)
    waiting.teardown(trainer, L.LightningModule(), "fit")
    with locks.try_hold(tmp_path / LOCK) as free:
        assert free


def test_sigterm_saves_the_step_that_runs(tiny: Tiny, capsys) -> None:
    """And what goes on from there ends in the same bits."""
    whole, path = tiny("whole", 10), tiny("run", 10, [fault("Terminate", step=6)])
    with pytest.raises(SystemExit) as stopped:
        fit(path)
    assert stopped.value.code == 143
    assert "stopped by SIGTERM at step 7; the same command resumes the run" in capsys.readouterr().out
    assert content(path)["global_step"] == 7
    assert fit(whole) == fit(path) == 0
    assert_equal(whole, path)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_a_signal_to_the_whole_process_group_saves_the_step(tiny: Tiny, name: str, code: int, capsys) -> None:
    """As a cluster sends it: to the loader's processes too, which leave it to the trainer."""
    path = tiny("run", 10, [fault("Terminate", step=6, name=name, loaders=True)], data={"num_workers": 1})
    with pytest.raises(SystemExit) as stopped:
        fit(path)
    assert stopped.value.code == code
    assert content(path)["global_step"] == 7


SLURM = {
    "JOB_ID": "41",
    "NTASKS": "1",
    "JOB_NAME": "train",
    "PROCID": "0",
    "LOCALID": "0",
    "NODEID": "0",
    "NNODES": "1",
}


@pytest.mark.parametrize("works", [True, False])
def test_slurm_s_signal_saves_and_requeues(
    works: bool, tiny: Tiny, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its environment variables and a `scontrol` that writes down what it is asked; nothing piles up."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(
        f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n" + ("" if works else "echo no such job >&2; exit 1\n")
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    path = tiny("run", 8, [fault("Terminate", step=4, name="SIGUSR1")])
    handler = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as stopped:
        fit(path)
    signal.signal(signal.SIGUSR1, handler)
    assert stopped.value.code == 143
    assert (tmp_path / "asked").read_text() == "requeue 41\n"
    printed = capsys.readouterr()
    queued = "SLURM job 41 is in the queue again" if works else "SLURM job 41 is not in the queue again (no such job)"
    assert queued in printed.out + printed.err
    assert content(path)["global_step"] == 5
    assert not list(path.parent.rglob("hpc_ckpt*"))
    if works:
        assert fit(path) == 0
        assert content(path)["global_step"] == 8


@pytest.mark.slow
def test_sigterm_of_one_process_stops_all_after_the_same_step(tiny: Tiny) -> None:
    ddp = {"devices": 2, "strategy": "ddp"}
    whole, path = tiny("whole", 12, trainer=ddp), tiny("run", 12, [fault("Terminate", step=6, rank=1)], trainer=ddp)
    running = start(path)
    output = running.communicate()[0]
    assert running.returncode == 143, output
    assert content(path)["global_step"] == 7
    finish(whole)
    finish(path)
    assert_equal(whole, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("by", ["lightning", "torchrun"])
def test_a_signal_to_two_processes_saves_and_leaves_nothing_running(by: str, name: str, tiny: Tiny) -> None:
    """To all that run, as a terminal's Ctrl-C and a cluster do. The one that was started takes 7 s longer to end than
    the other, for which Lightning would kill it."""
    late = [fault("EndLate", rank=0, seconds=7.0)] if by == "lightning" else []
    path = tiny("run", 400, late, trainer={"devices": 2, "strategy": "ddp"}, data={"num_workers": 1})
    running = start(path, by=by)
    while not last(path).exists():
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.05)
    number = signal.Signals[name]
    if by == "torchrun" and name == "SIGUSR1":  # torchrun has no handler of it, and goes at once
        (workers,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().splitlines()
        for worker in workers.split():
            os.kill(int(worker), number)
    else:
        os.killpg(running.pid, number)
    output = running.communicate()[0]
    saved = content(path)["global_step"]
    assert f"stopped by {'Ctrl-C' if name == 'SIGINT' else name} at step {saved}; the same command resumes" in output
    assert running.returncode == (128 + number if by == "lightning" else 1), output
    assert forked.left(running.pid) == []


@pytest.mark.slow
def test_one_process_with_a_bad_sample_makes_all_skip(tiny: Tiny) -> None:
    """Rank 1 alone sees NaN at step 3: the run ends as one in which both do."""
    ddp = {"devices": 2, "strategy": "ddp"}
    one = tiny("one", 6, [fault("Poison", steps=[3], rank=1)], trainer=ddp)
    both = tiny("both", 6, [fault("Poison", steps=[3])], trainer=ddp)
    assert finish(one).count("step 3 is skipped") == 1
    assert finish(both).count("step 3 is skipped") == 2
    assert_equal(one, both)


def test_a_full_disk_leaves_the_last_checkpoint(tiny: Tiny, capsys) -> None:
    path = tiny("run", 2)
    assert fit(path) == 0
    before = last(path).read_bytes()
    last(path).with_name("last.ckpt.tmp").symlink_to("/dev/full")  # the kernel's own "no space left"
    assert fit(path, "--trainer.max_steps", "4") == 1
    line = error(capsys)
    assert line == f"ediffi: error: {last(path)}: No space left on device"
    assert last(path).read_bytes() == before
    assert not last(path).with_name("last.ckpt.tmp").is_symlink()
    assert fit(path, "--trainer.max_steps", "4") == 0
    assert content(path)["global_step"] == 4


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    """Cut in the middle of a write, by the largest size that the system lets a file have."""
    place = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(10)}, place)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as cut:
            AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(1_000_000)}, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cut.value.filename == str(place)
    assert torch.equal(torch.load(place, weights_only=True)["weights"], torch.zeros(10))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_too_little_room_is_said_before_the_first_step(tiny: Tiny, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny("run", 2)
    monkeypatch.setattr(run_directory, "checkpoint_bytes", lambda trainer, module: 10**18)
    assert fit(path) == 1
    line = error(capsys)
    assert "checkpoints of this run take about 1e+09 GB each and need 2e+09 GB of free disk space in " in line
    assert not last(path).exists()


def test_a_loader_process_that_dies_is_one_line(tiny: Tiny, capsys) -> None:
    path = tiny("run", 8, [fault("KillWorkers", step=3)], data={"num_workers": 1})
    assert fit(path) == 1
    line = error(capsys)
    assert line.startswith("ediffi: error: a process of this run has died (")
    assert "the same command resumes from the last checkpoint" in line
    assert content(path)["global_step"] == 2


def test_a_broken_shard_in_a_loader_process_is_one_line(tiny: Tiny, tmp_path: Path, shard_folder: Path, capsys) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in shard_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    for path in broken.glob("*.tar"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    recipe = tiny("run", 4, data={"train": str(broken), "num_workers": 1})
    assert fit(recipe) == 1
    line = error(capsys)
    assert "its index says 16" in line
    assert "Traceback" not in line


def test_embeddings_of_a_width_that_the_network_does_not_read_are_refused(
    tiny: Tiny, tmp_path: Path, shard_folder: Path, capsys
) -> None:
    other = Path(shutil.copytree(shard_folder, tmp_path / "other"))
    index = json.loads((other / "index.json").read_text())
    index["encoders"]["t5"] = {"name": "t5", "width": 4096}
    del index["sha256"]
    (other / "index.json").write_text(json.dumps(index))
    assert fit(tiny("run", data={"train": str(other), "val": str(other)})) == 1
    assert "are of another encoder: width 4096, where 128 is expected" in error(capsys)


def test_a_step_that_devices_do_not_make_is_refused(tiny: Tiny, capsys) -> None:
    assert fit(tiny("run"), "--data.step_size", "10") == 1
    line = error(capsys)
    assert "data.step_size says 10 samples a step, but batches of 4 on 1 processes, 1 a step, are 4" in line


def test_lightning_s_average_is_refused_where_weights_are_sharded() -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging
    from lightning.pytorch.strategies import FSDPStrategy

    class OnCpu(FSDPStrategy):
        """Lightning has it on GPUs only; what is refused here is refused before anything runs."""

    trainer = L.Trainer(accelerator="cpu", strategy=OnCpu(), logger=False, callbacks=[EMAWeightAveraging()])
    with pytest.raises(ValueError, match=r"cannot average weights that fsdp shards.*callbacks\.ema\.EMA"):
        prepare(trainer, L.LightningModule())
    sharded = L.Trainer(accelerator="cpu", strategy=OnCpu(state_dict_type="sharded"), logger=False)
    with pytest.raises(ValueError, match="state_dict_type"):
        prepare(sharded, L.LightningModule())


def test_compiled_or_not_a_checkpoint_has_the_same_names(tiny: Tiny) -> None:
    from ediffi.registry import denoisers
    from ediffi.registry.denoisers.layers import PARTS
    from ediffi.training.lightning_module import DiffusionStage

    denoiser = denoisers.create("unet_toybox", channels=16, head_channels=8, norm_groups=4)
    stage = DiffusionStage(denoiser, compile=True)
    names = list(stage.state_dict())
    stage.trainer = L.Trainer(accelerator="cpu", logger=False)
    stage.on_train_start()
    parts = [module for module in stage.denoiser.network.modules() if isinstance(module, PARTS)]
    assert all(part._compiled_call_impl is not None for part in parts)
    assert list(stage.state_dict()) == names
