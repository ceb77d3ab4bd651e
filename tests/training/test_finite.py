"""Steps that are not finite: skipped before optimiser and average, never saved; the run goes back, or ends."""

import logging
import runpy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.overrides import TorchFunctionMode

from ediffi.cli.fit import QUIET
from ediffi.data.module import ShardData
from ediffi.diffusion.noise import LogNormal
from ediffi.registry import denoisers
from ediffi.training import lightning_module
from ediffi.training.callbacks import non_finite
from ediffi.training.callbacks.ema import EMA
from ediffi.training.callbacks.non_finite import NonFiniteLossError, SkipNonFinite
from ediffi.training.callbacks.preemption import PreemptionCheckpoint
from ediffi.training.callbacks.throughput import Throughput
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.loss import band_edges

Poison = runpy.run_path(str(Path(__file__).with_name("faults.py")))["Poison"]
pytestmark = [pytest.mark.filterwarnings(f"ignore:{line}") for line in (*QUIET, ".*Checkpoint directory.*")]


class States(L.Callback):
    """What a checkpoint would hold after each step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, Any]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self._note(trainer)

    def on_train_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self._note(trainer)

    def _note(self, trainer: L.Trainer) -> None:
        content = trainer._checkpoint_connector.dump_checkpoint()
        parts = {key: content[key] for key in ("state_dict", "current_model_state")}
        parts["optimizer"] = content["optimizer_states"][0]["state"]
        self.after.setdefault(trainer.global_step, torch.utils._pytree.tree_map(_copy, parts))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def same(one: Any, two: Any) -> bool:
    leaves, others = (torch.utils._pytree.tree_flatten(part) for part in (one, two))
    return leaves[1] == others[1] and all(torch.equal(a, b) for a, b in zip(leaves[0], others[0], strict=True))


@pytest.fixture(params=["read at once", "read late"])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the host reads a step during the next one, as it does on a GPU."""
    if request.param == "read late":
        monkeypatch.setattr(non_finite, "LATE", {"cpu"})
    return bool(request.param == "read late")


def run(folder: Path, shards: Path, steps: int, *faults: L.Callback, **options: Any) -> States:
    torch.manual_seed(0)
    states = States()
    denoiser = denoisers.create("unet_toybox", channels=16, head_channels=8, norm_groups=4, context_width=16)
    saver = ModelCheckpoint(folder, every_n_train_steps=2, save_last=True, save_top_k=0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        # first of all, so that it sees the last step before the average is copied into the weights
        callbacks=[states, EMA(0.9, warm_up=False), *faults, saver],
        **options,
    )
    trainer.fit(DiffusionStage(denoiser), ShardData(shards, shards, 16, batch_size=4))
    return states


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_is_skipped_before_optimiser_and_average(
    what: str, late: bool, tmp_path: Path, shard_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights, average and moments stay, bit for bit; and the next step changes all of them."""
    with caplog.at_level(logging.WARNING, "ediffi"):
        after = run(tmp_path, shard_folder, 4, Poison([2], what)).after
    assert same(after[3], after[2])
    assert not any(same(after[4][part], after[3][part]) for part in after[4])
    assert all(torch.isfinite(value).all() for value in after[4]["state_dict"].values())
    (line,) = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert line.startswith("step 2 is skipped: the ")
    assert line.count("train-") == 4
    assert "sigma " in line
    assert ("the loss is not finite" if what == "loss" else "the norm of the gradient is inf at a finite loss") in line


def test_only_the_samples_to_blame_are_named() -> None:
    from ediffi.training.callbacks.non_finite import SampleLosses, explain

    seen = [SampleLosses(["a", "b"], torch.tensor([1.0, 2.0]), torch.tensor([0.5, torch.nan]))]
    assert explain(seen, 1.0) == "the loss is not finite; samples b (sigma 2, loss nan)"
    many = [SampleLosses([str(i) for i in range(20)], torch.ones(20), torch.ones(20))]
    assert explain(many, torch.inf).endswith("7 (sigma 1, loss 1) and 12 more")


def test_accumulated_batches_are_skipped_together(late: bool, tmp_path: Path, shard_folder: Path) -> None:
    after = run(tmp_path, shard_folder, 3, Poison([1]), accumulate_grad_batches=2).after
    assert same(after[2], after[1])
    assert not same(after[3], after[2])


def test_three_in_a_row_go_back_to_the_last_good_checkpoint(
    late: bool, tmp_path: Path, shard_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Saved at 2 and 4; step 5 is good; 6, 7 and 8 are not. Step 6 and 8 are not saved."""
    with caplog.at_level(logging.WARNING, "ediffi"):
        after = run(tmp_path, shard_folder, 9, Poison([5, 6, 7])).after
    assert not same(after[5], after[4])
    assert same(after[7], after[5])
    assert same(after[8], after[4])
    assert not same(after[9], after[4])
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert "at step 8, the weights are those of step 4 again" in caplog.text


def test_ten_in_a_row_end_the_run(late: bool, tmp_path: Path, shard_folder: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"for 10 steps in a row, now at step 13; lower the learning rate"):
        run(tmp_path, shard_folder, 20, Poison(list(range(3, 20))))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_going_back_again_and_again_ends_the_run(late: bool, tmp_path: Path, shard_folder: Path) -> None:
    """A checkpoint from which every road ends: one good step, three that are not, and so on, with nothing saved."""
    bad = [step for step in range(3, 40) if step % 4]
    with pytest.raises(NonFiniteLossError, match=r"again and again after the checkpoint of step 2, now at step 20"):
        run(tmp_path, shard_folder, 40, Poison(bad))


class HostReads(TorchFunctionMode):
    """Counts what brings values of tensors to the host, by name."""

    READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.READS and not getattr(args[0], "arrived", False):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class CountReads(L.Callback):
    """The host reads of each step, from its batch to the last hook after it."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        after = pl_module.on_train_batch_end  # which Lightning calls after those of callbacks

        def last(*args: Any) -> None:
            after(*args)
            self.mode.__exit__(None, None, None)
            self.steps.append(self.mode.found)

        pl_module.on_train_batch_end = last

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.mode = HostReads()
        self.mode.__enter__()


def test_a_step_reads_the_device_once(tmp_path: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss, gradient and signal together, before the optimiser; a step that is logged reads the losses too."""
    monkeypatch.setattr(lightning_module, "SHOW_EVERY", float("inf"))
    band_edges(LogNormal(), lightning_module.BANDS)  # computed once a process, on the host
    count = CountReads()
    run(tmp_path, shard_folder, 5, count, PreemptionCheckpoint(), Throughput(), log_every_n_steps=3)
    step, logged, saved = ["tolist"], ["tolist", "tolist"], ["tolist", "item"]  # saving reads what was logged
    assert count.steps == [step, step, logged, saved, step]


def test_a_step_that_logs_nothing_is_read_during_the_next(
    tmp_path: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: only steps that are logged (3), saved (2 and 4) or the last (5) wait for the device."""
    on_its_way = non_finite._on_its_way

    def arrived(summed: torch.Tensor) -> Any:
        copied, ready = on_its_way(summed)
        copied.arrived = True  # type: ignore[attr-defined]
        return copied, ready

    monkeypatch.setattr(non_finite, "LATE", {"cpu"})
    monkeypatch.setattr(non_finite, "_on_its_way", arrived)
    monkeypatch.setattr(lightning_module, "SHOW_EVERY", float("inf"))
    band_edges(LogNormal(), lightning_module.BANDS)
    count = CountReads()
    run(tmp_path, shard_folder, 9, count, PreemptionCheckpoint(), Throughput(), log_every_n_steps=3)
    assert [bool(reads) for reads in count.steps] == [False, True, True, True, False, True, False, True, True]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_reading_late_changes_no_bit(
    what: str, tmp_path: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A good step and a bad one that are read late, and what is saved after them."""
    monkeypatch.setattr(States, "_note", lambda *_: None)  # which would read at once
    saved, lines = {}, {}
    for name, devices in {"late": {"cpu"}, "at once": set()}.items():
        monkeypatch.setattr(non_finite, "LATE", devices)
        with caplog.at_level(logging.WARNING, "ediffi"):
            run(tmp_path / name, shard_folder, 5, Poison([2], what))
        last = torch.load(tmp_path / name / "last.ckpt", weights_only=True)
        saved[name] = {key: last[key] for key in ("state_dict", "current_model_state", "optimizer_states")}
        saved[name]["averaged"] = last["averaging_state"]["n_averaged"]
        lines[name] = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
        caplog.clear()
    tensors = [
        [leaf for leaf in torch.utils._pytree.tree_leaves(one) if isinstance(leaf, torch.Tensor)]
        for one in saved.values()
    ]
    assert all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
    assert len(tensors[0]) > 100
    assert lines["late"] == lines["at once"]
    assert lines["late"][0].startswith("step 2 is skipped: the ")


def test_bad_patience_is_named() -> None:
    with pytest.raises(ValueError, match=r"go_back_after must be in 1 to end_after \(10\), got 11"):
        SkipNonFinite(11)
