"""The average of the weights: Lightning's where both work, one's in two processes, short at first."""

import os
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn

from ediffi.cli.fit import QUIET
from ediffi.data.index import Shard
from ediffi.data.module import ShardData
from ediffi.data.stream import ImageTransform, ShardStream
from ediffi.registry import denoisers
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.training.callbacks.ema import EMA, averaged_weights, power_of
from ediffi.training.callbacks.preemption import PreemptionCheckpoint
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.sharding import match_memory

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


def tiny() -> Preconditioned:
    torch.manual_seed(0)
    return denoisers.create("unet_toybox", channels=16, head_channels=8, norm_groups=4, context_width=16)


def train(
    folder: Path, shards: Path, steps: int, average: L.Callback, go_on_from: str | None = None, **options: Any
) -> dict[str, Any]:
    """Steps of 8 samples, one of them skipped, validated every other; what the last checkpoint holds."""
    torch.set_num_threads(1)
    processes = options.pop("devices", 1)
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
    trainer.fit(DiffusionStage(tiny()), data, ckpt_path=go_on_from)
    return dict(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))


def furthest(one: dict[str, Any], two: dict[str, Any], part: str) -> float:
    assert one[part].keys() == two[part].keys()
    return max((value - two[part][key]).abs().max().item() for key, value in one[part].items())


def test_it_is_the_average_of_lightning(tmp_path: Path, shard_folder: Path) -> None:
    """Validated in between and one step skipped; and either goes on with the other's checkpoint."""
    theirs = train(tmp_path / "theirs", shard_folder, 6, EMAWeightAveraging(decay=0.9))
    ours = train(tmp_path / "ours", shard_folder, 6, EMA(0.9, warm_up=False))
    assert furthest(theirs, ours, "current_model_state") == 0
    assert furthest(theirs, ours, "state_dict") < 1e-6
    assert furthest(theirs, {"state_dict": theirs["current_model_state"]}, "state_dict") > 1e-5
    last = str(tmp_path / "theirs" / "checkpoints" / "last.ckpt")
    further = train(tmp_path / "ours further", shard_folder, 8, EMA(0.9, warm_up=False), last)
    unbroken = train(tmp_path / "unbroken", shard_folder, 8, EMAWeightAveraging(decay=0.9))
    assert furthest(unbroken, further, "current_model_state") == 0
    assert furthest(unbroken, further, "state_dict") < 1e-6


@pytest.mark.slow
def test_fsdp2_trains_as_one_process(tmp_path: Path, shard_folder: Path) -> None:
    """Two processes from the start, and from the checkpoint of one; four with two copies (hybrid sharding); and one
    process from the checkpoint of two. Adam's moments are in all of them."""
    program = f"""
import runpy, sys
from pathlib import Path
from lightning.pytorch.strategies import ModelParallelStrategy
module = runpy.run_path({__file__!r})
EMA, train = module["EMA"], module["train"]
folder, shards, start = Path(sys.argv[1]), Path({str(shard_folder)!r}), (sys.argv[5:] or [None])[0]
steps, copies, each = map(int, sys.argv[2:5])
strategy = ModelParallelStrategy(copies, each, save_distributed_checkpoint=False)
train(folder, shards, steps, EMA(0.9, warm_up=False), start, devices=copies * each, strategy=strategy)
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def sharded(name: str, *words: object) -> Path:
        command = [sys.executable, str(script), str(tmp_path / name), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return tmp_path / name / "checkpoints" / "last.ckpt"

    whole = train(tmp_path / "whole", shard_folder, 6, EMA(0.9, warm_up=False))
    train(tmp_path / "half", shard_folder, 3, EMA(0.9, warm_up=False))
    first = sharded("two, first half", 3, 2, 1)
    ends = {
        "two": sharded("two", 6, 2, 1),
        "two from one": sharded("two from one", 6, 2, 1, tmp_path / "half" / "checkpoints" / "last.ckpt"),
        "hybrid": sharded("hybrid", 6, 2, 2),
    }
    train(tmp_path / "one from two", shard_folder, 6, EMA(0.9, warm_up=False), str(first))
    ends["one from two"] = tmp_path / "one from two" / "checkpoints" / "last.ckpt"
    for name, path in ends.items():
        end = torch.load(path, weights_only=True)
        assert end["global_step"] == 6
        assert furthest(whole, end, "current_model_state") < 1e-6, name
        assert furthest(whole, end, "state_dict") < 1e-6, name


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_as_one(tmp_path: Path, shard_folder: Path) -> None:
    """From the start, and from the checkpoint of one process, Adam's moments included.

    The moments that the sharded run saves are not looked at: on a CPU torch gathers them all into the same memory.
    """
    program = f"""
import runpy, sys
from pathlib import Path
module = runpy.run_path({__file__!r})
OnCpu, EMA, train = module["OnCpu"], module["EMA"], module["train"]
folder, steps, start = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
train(folder, Path({str(shard_folder)!r}), steps, EMA(0.9, warm_up=False), start, devices=2, strategy=OnCpu())
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    whole = train(tmp_path / "whole", shard_folder, 6, EMA(0.9, warm_up=False))
    train(tmp_path / "half", shard_folder, 3, EMA(0.9, warm_up=False))
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


def test_moments_of_another_memory_layout_are_those_of_their_weights() -> None:
    """As from a sharded run, whose checkpoint is contiguous: a fused optimiser steps as if it had never been."""
    torch.manual_seed(0)
    nets = [nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.1, fused=True) for net in nets]
    for step in range(2):
        for net, optimizer in zip(nets, optimizers, strict=True):
            net.weight.grad = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(step)).to(
                memory_format=torch.channels_last
            )
            optimizer.step()
        moments = optimizers[1].state[nets[1].weight]
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = moments[name].contiguous()
        match_memory(optimizers[1:])
        assert moments["exp_avg"].stride() == nets[1].weight.stride()
    assert torch.equal(nets[0].weight, nets[1].weight)


def test_a_short_run_s_average_is_of_what_it_learned(shards: list[Shard]) -> None:
    """After 200 steps the loss of the average is that of the weights; without warm-up it is far behind."""
    learner, averages = DiffusionStage(tiny()), (EMA(0.999), EMA(0.999, warm_up=False))
    learner.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    stream = ShardStream(shards, ImageTransform(16), batch_size=4, seed=0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3, fused=True)
    for average in averages:
        average.start(learner)
    for step, batch in enumerate(islice(stream, 200), start=1):
        learner.training_step(batch.float(), 0).backward()
        optimizer.step()
        optimizer.zero_grad()
        for average in averages:
            average.update(learner, step)

    @torch.no_grad()
    def loss(weights: list[torch.Tensor]) -> float:
        for parameter, weight in zip(learner.parameters(), weights, strict=True):
            parameter.copy_(weight)
        return float(torch.stack([learner.training_step(batch.float(), 0) for batch in islice(stream, 8)]).mean())

    last, warm, cold = (
        loss(weights) for weights in ([*map(torch.clone, learner.parameters())], *(a._average for a in averages))
    )
    assert warm < 1.05 * last
    assert cold > 1.5 * last


def steps_of(average: EMA, weights: torch.Tensor) -> torch.Tensor:
    """The average of weights [n] after n steps of a module that has one of them at each step."""
    module = nn.Linear(1, 1, bias=False, dtype=weights.dtype)
    average.start(module)
    for step, weight in enumerate(weights, start=1):
        module.weight.data.fill_(weight)
        average.update(module, step)
        average.update(module, step)  # a batch that is accumulated after the step
    return average._average[0].squeeze()


def test_it_is_the_formula() -> None:
    """In float64, written out: the profiles as weighted sums over all steps."""
    weights = torch.randn(50, dtype=torch.float64)
    n = torch.arange(1, 51, dtype=torch.float64)
    for average, beta in (
        (EMA(0.9, warm_up=False), torch.full_like(n, 0.9)),
        (EMA(0.5), torch.minimum(n / (9 + n), torch.tensor(0.5))),
        (EMA(sigma_rel=0.1), (1 - 1 / n) ** (power_of(0.1) + 1)),
    ):
        beta[0] = 0  # the first weights are copied
        share = (1 - beta) * torch.cat([beta.flip(0).cumprod(0).flip(0)[1:], torch.ones(1)])
        assert share.sum() == pytest.approx(1)
        assert torch.allclose(steps_of(average, weights), (share * weights).sum(), rtol=1e-12)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_profile_is_edm2_s(sigma_rel: float, gamma: float) -> None:
    """EDM2's own two, and the width as its definition: the standard deviation of the age of what is averaged."""
    assert power_of(sigma_rel) == pytest.approx(gamma, abs=0.005)
    steps = 4000
    n = torch.arange(steps, dtype=torch.float64)
    mean = steps_of(EMA(sigma_rel=sigma_rel), n)
    variance = steps_of(EMA(sigma_rel=sigma_rel), (n - mean) ** 2)
    assert variance.sqrt() / steps == pytest.approx(sigma_rel, rel=0.01)


def test_it_stands_beside_the_weights() -> None:
    """On their device and in their dtype; frozen weights and buffers are left out."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2))
    average = EMA(0.9)
    module.to("meta", torch.float64)
    average.start(module)
    average.update(module, 1)
    assert [(one.device.type, one.dtype) for one in average._average] == 4 * [("meta", torch.float64)]
    assert [one.shape for one in average._average] == [one.shape for one in averaged_weights(module)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": -0.1}, r"decay of the average must be in \[0, 1\), got -0.1"),
        ({"decay": 1.0}, r"decay of the average must be in \[0, 1\), got 1.0"),
        ({"sigma_rel": 0.3}, r"sigma_rel of the average must be in \(0, 0.28\], got 0.3"),
        ({"sigma_rel": 0.1, "decay": 0.9}, r"a decay or a sigma_rel, got both: 0.9 and 0.1"),
        ({"sigma_rel": 0.1, "warm_up": False}, r"warm_up belongs to decay"),
    ],
)
def test_a_bad_average_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMA(**options)
