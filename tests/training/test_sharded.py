"""The average that works under fsdp: that of Lightning where both work; and, in two processes, that of one."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy

from ediffi.cli.fit import QUIET
from ediffi.data.module import ShardData
from ediffi.registry import denoisers
from ediffi.training.callbacks.preemption import PreemptionCheckpoint
from ediffi.training.callbacks.sharded_ema import ShardedEMA
from ediffi.training.lightning_module import DiffusionStage

Poison = runpy.run_path(str(Path(__file__).with_name("faults.py")))["Poison"]
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{line}")
    for line in (*QUIET, ".*Checkpoint directory.*", ".*callbacks used to create.*")
]
TOP = Path(__file__).resolve().parent.parent.parent


class OnCpu(FSDPStrategy):
    """Lightning has fsdp on GPUs only; torch has it on CPUs too, if the device is named."""

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(
            model, device_id=torch.device("cpu"), sharding_strategy=self.sharding_strategy, **self.kwargs
        )


def train(
    folder: Path, shards: Path, steps: int, average: L.Callback, go_on_from: str | None = None, **options: Any
) -> dict[str, Any]:
    """Steps of 8 samples, one of them skipped, validated every other; what the last checkpoint holds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    processes = options.pop("devices", 1)
    denoiser = denoisers.create("unet_toybox", channels=16, head_channels=8, norm_groups=4, context_width=16)
    saver = ModelCheckpoint(folder / "checkpoints", every_n_train_steps=3, save_last=True, save_top_k=0)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=None,
        val_check_interval=2,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[average, Poison([4]), PreemptionCheckpoint(), saver],
        **options,
    )
    data = ShardData(shards, shards, 16, batch_size=8 // processes, val_batches=1)
    trainer.fit(DiffusionStage(denoiser), data, ckpt_path=go_on_from)
    return dict(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))


def furthest(one: dict[str, Any], two: dict[str, Any], part: str) -> float:
    assert one[part].keys() == two[part].keys()
    return max((value - two[part][key]).abs().max().item() for key, value in one[part].items())


def test_it_is_the_average_of_lightning(tmp_path: Path, shard_folder: Path) -> None:
    """Validated in between and one step skipped; and either goes on with the other's checkpoint."""
    theirs = train(tmp_path / "theirs", shard_folder, 6, EMAWeightAveraging(decay=0.9))
    ours = train(tmp_path / "ours", shard_folder, 6, ShardedEMA(0.9))
    assert furthest(theirs, ours, "current_model_state") == 0
    assert furthest(theirs, ours, "state_dict") < 1e-6
    assert furthest(theirs, {"state_dict": theirs["current_model_state"]}, "state_dict") > 1e-5
    last = str(tmp_path / "theirs" / "checkpoints" / "last.ckpt")
    further = train(tmp_path / "ours further", shard_folder, 8, ShardedEMA(0.9), last)
    unbroken = train(tmp_path / "unbroken", shard_folder, 8, EMAWeightAveraging(decay=0.9))
    assert furthest(unbroken, further, "current_model_state") == 0
    assert furthest(unbroken, further, "state_dict") < 1e-6


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_as_one(tmp_path: Path, shard_folder: Path) -> None:
    """From the start, and from the checkpoint of one process, Adam's moments included.

    The moments that the sharded run saves are not looked at: on a CPU torch gathers them all into the same memory.
    """
    program = f"""
import runpy, sys
from pathlib import Path
module = runpy.run_path({__file__!r})
OnCpu, ShardedEMA, train = module["OnCpu"], module["ShardedEMA"], module["train"]
folder, steps, start = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
train(folder, Path({str(shard_folder)!r}), steps, ShardedEMA(0.9), start, devices=2, strategy=OnCpu())
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    whole = train(tmp_path / "whole", shard_folder, 6, ShardedEMA(0.9))
    train(tmp_path / "half", shard_folder, 3, ShardedEMA(0.9))
    start = str(tmp_path / "half" / "checkpoints" / "last.ckpt")
    environment = os.environ | {"PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for name, words in (("sharded", []), ("gone on", [start])):
        command = [sys.executable, str(script), str(tmp_path / name), "6", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        sharded = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert sharded["global_step"] == 6
        assert furthest(whole, sharded, "current_model_state") < 1e-6
        assert furthest(whole, sharded, "state_dict") < 1e-6


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_bad_decay_is_named(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay of the average must be in \[0, 1\)"):
        ShardedEMA(decay)
