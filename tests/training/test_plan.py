"""What a recipe takes: operations and memory agree with what runs, and the sums with the recipe."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ediffi.cli import main
from ediffi.cli.plan import Machine, _loader
from ediffi.cli.recipes import path_of
from ediffi.registry import denoisers
from ediffi.registry.denoisers import norm
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.types import Conditioning
from ediffi.training.estimate import plan, workload
from ediffi.training.estimate.devices import DEVICES, Accelerator
from ediffi.training.estimate.plan import NetworkCost
from ediffi.training.estimate.workload import Workload

SMALL = {"channels": 16, "head_channels": 8, "norm_groups": 4, "context_width": 16}
WORK = Workload(step=3 * 10**12, activations=10**8)
CHECKPOINTED = Workload(step=4 * 10**12, activations=10**7)
COUNTED = NetworkCost(10**9, WORK, CHECKPOINTED, 1000.0, 2000.0)


class Convolution(nn.Module):
    """One convolution, as a network that is told noise and words and does not listen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        return self.out(self.into(x))


@functools.cache
def counted(low_precision: bool = True, checkpointing: bool = False) -> Workload:
    """A step of a small base stage."""
    with torch.device("meta"):
        denoiser = denoisers.create("unet_toybox", **SMALL, gradient_checkpointing=checkpointing)
    return workload.count(denoiser, 16, None, low_precision)


def test_a_convolution_costs_what_the_formula_says() -> None:
    """2·3·3·in·out a pixel forwards, twice that backwards, without the gradient of the picture that nobody asks for."""
    with torch.device("meta"):
        denoiser = Preconditioned(Convolution(8))
    one = 2 * 9 * 3 * 8 * 16**2
    work = workload.count(denoiser, 16, None)
    assert work.step == 2 * one + 3 * one


def test_operations_are_those_of_a_network_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network with real tensors in float32, counted by torch as it runs; attention in plain products.

    Backwards, a kernel that keeps no scores computes one of its products again, which plain products do not.
    """
    denoiser, attention, again = denoisers.create("unet_toybox", **SMALL), F.scaled_dot_product_attention, []

    def noted(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        again.append(2 * q.numel() * k.shape[2])
        return attention(q, k, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        workload.loss_of(denoiser, 1, 16, None, "cpu").backward()
    monkeypatch.undo()
    assert len(again) > 1
    assert counted(low_precision=False).step == counter.get_total_flops() + sum(again)


def test_checkpointing_computes_again_and_keeps_little() -> None:
    plain, again = (counted(checkpointing=on) for on in (False, True))
    assert plain.step < again.step < 1.4 * plain.step, "a forward pass is about a third of a step"
    assert again.activations < plain.activations / 2


def test_activations_hold_what_the_backward_pass_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least every tensor that autograd saves, weights aside; and not twice as much. With the norms of a CPU, as here
    they run, also where they are counted."""

    def as_on_cpu(layer: norm.GroupNorm, x: torch.Tensor, scale_shift: Any = None, silu: bool = False) -> torch.Tensor:
        return norm.apart(x, layer.num_groups, layer.weight, layer.bias, scale_shift, layer.eps, silu)

    monkeypatch.setattr(norm.GroupNorm, "forward", as_on_cpu)
    denoiser, saved = denoisers.create("unet_toybox", **SMALL), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept = []
    for batch in (1, 2):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = workload.loss_of(denoiser, batch, 16, None, "cpu")
        kept.append(sum(saved.values()))
        del loss
    activations = counted.__wrapped__(low_precision=False).activations
    assert kept[1] - kept[0] <= 1.02 * activations
    assert activations < 2 * (kept[1] - kept[0])


def test_half_precision_halves_part_of_the_activations() -> None:
    low, full = (counted(low_precision=on) for on in (True, False))
    assert low.step == full.step
    assert full.activations / 2 < low.activations < full.activations


def test_super_resolution_is_counted_with_its_low_resolution() -> None:
    tiny = {"channels": 32, "channel_mults": (1, 1), "num_res_blocks": (1, 1), "cross_attention_levels": (1,)}
    with torch.device("meta"):
        denoiser = denoisers.create("efficient_toybox64", norm_groups=4, **tiny)
    assert workload.count(denoiser, 32, 8).step > 0


@pytest.mark.parametrize(
    ("name", "steps", "size", "low_res", "devices"),
    [
        ("base64", 1_900_000, 64, None, 32),
        ("experts_base64", 1_900_000, 64, None, 32),
        ("sr256", 2_000_000, 256, 64, 128),
        ("experts_sr256", 2_000_000, 256, 64, 128),
        ("sr1024", 1_700_000, 256, 64, 128),
    ],
)
def test_the_paper_s_recipes_say_what_table_7_says(
    name: str, steps: int, size: int, low_res: int | None, devices: int
) -> None:
    job = plan.read(path_of(f"paper/{name}"))
    assert (job.all_steps, job.size, job.low_res, job.devices) == (steps, size, low_res, devices)
    assert (job.samples, job.checkpointing, job.low_precision, job.sharded) == (2048, False, True, False)
    assert (job.compiled, job.bucket_view) == (True, True)


def test_memory_adds_up(tmp_path: Path) -> None:
    job = plan.read(path_of("paper/base64"))
    parts = plan.memory(job, COUNTED, 256, 8, checkpointing=False)
    assert parts == {
        "weights": 4e9,
        "gradients": 4e9,
        "Adam's two moments": 8e9,
        "average (EMA)": 4e9,
        "bfloat16 copies": 2e9,
        "activations": 8e8,
    }
    assert plan.memory(job, COUNTED, 1, 8, checkpointing=True)["activations"] == 8e7
    own = replace(job, bucket_view=False)
    assert plan.memory(own, COUNTED, 256, 8, checkpointing=True)["buckets of ddp"] == 4e9
    assert "buckets of ddp" not in plan.memory(own, COUNTED, 1, 8, checkpointing=True)
    recipe = yaml.safe_load(path_of("paper/base64").read_text())
    for strategy in ("fsdp", {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}):
        recipe["trainer"]["strategy"] = strategy
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        sharded = plan.read(tmp_path / "r.yaml")
        assert plan.memory(sharded, COUNTED, 4, 8, checkpointing=False)["Adam's two moments"] == 2e9


def test_a_step_is_dealt_to_the_devices() -> None:
    job = plan.read(path_of("paper/base64"))
    assert [plan.accumulation(job, devices, 8) for devices in (256, 128, 8)] == [1, 2, 32]
    with pytest.raises(ValueError, match="2048 samples cannot be made of batches of 8 on 3 devices"):
        plan.accumulation(job, 3, 8)


ON_H100 = {
    "base64, 32": (292, 32, 1.468, 226, 5330, 715),
    "base64, 64": (504, 64, 1.468, 438, 5330, 715),
    "base64, 8, checkpointed": (323, 8, 1.862, 85, 7845, 715),
    "sr256, 16": (525, 16, 5.683, 534, 3931, 468),
    "sr256, 16, checkpointed": (673, 16, 6.700, 735, 5350, 468),
    "sr1024, 16": (462, 16, 4.103, 493, 3840, 206),
}
"""Milliseconds of a training step of commit 925d412, measured on an H100; batch, TFLOP an image; traffic in GB and
kernels of a batch, as benchmarks/step_cost.py counts them; million parameters."""


@pytest.mark.parametrize("name", ON_H100)
def test_the_time_of_a_step_is_near_what_was_measured(name: str) -> None:
    """Eager, one device, no average."""
    milliseconds, batch, tera, giga, launches, million = ON_H100[name]
    work = Workload(int(tera * 1e12), 0, traffic=int(giga * 1e9 / batch), launches=launches)
    job = replace(plan.read(path_of("paper/base64")), compiled=False, averaged=False, samples=batch)
    cost = NetworkCost(million * 10**6, work, work, 0.0, 0.0)
    seconds = sum(plan.step_time(job, cost, DEVICES["h100-80"], 1, batch, 0.6))
    assert seconds == pytest.approx(milliseconds / 1e3, rel=0.2)


def test_the_parts_of_a_step_are_sums_of_the_recipe() -> None:
    """On round numbers: 1 PFLOP/s, 1 TB/s, 10⁹ weights, 2 batches of 10 on each of 16 devices."""
    work = Workload(10**12, 0, traffic=10**9, edges=10**8, weights=10**9, launches=1000, products=100)
    cost, kind = NetworkCost(10**9, work, work, 0.0, 0.0), Accelerator("round", 1e11, 1e12, 1e15)
    job = replace(plan.read(path_of("paper/base64")), compiled=False, averaged=True, samples=320)
    eager = plan.step_time(job, cost, kind, 16, 10, 0.5)
    assert eager.products == pytest.approx(2 * 10 * 1e12 / 5e14)
    assert eager.traffic == pytest.approx(2 * 11e9 / (1e12 * plan.TRAFFIC_SHARE))
    assert eager.launches == 0
    assert eager.update == pytest.approx(40e9 / (1e12 * plan.UPDATE_SHARE))
    backward = (eager.products + eager.traffic) / 2 * 2 / 3
    assert eager.reduction == pytest.approx(2 * 15 / 16 * 4e9 / plan.REDUCTION - backward)
    assert plan.step_time(job, cost, kind, 1, 10, 0.5).reduction == 0
    small = plan.step_time(replace(job, samples=1), cost, kind, 1, 1, 0.5)
    assert small.products + small.traffic + small.launches == pytest.approx(1000 * plan.EAGER)
    compiled = plan.step_time(replace(job, compiled=True), cost, kind, 16, 10, 0.5)
    assert compiled.traffic == pytest.approx(2 * (10 * plan.FUSED * 1e8 + 1e9) / (1e12 * plan.TRAFFIC_SHARE))


def test_the_plan_of_a_recipe_is_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "toybox/base", "--devices", "2", "--batch-size", "32", "--samples", "1000"]
    assert main([*words, "--device-type", "l4", "--utilisation", "0.5"]) == 0
    page = capsys.readouterr().out
    assert "unet_toybox, 3.7 M parameters, trained on 16² images" in page
    assert "time on 2 devices, 2 batches of 32 a step" in page
    assert "on NVIDIA L4, eager: " in page
    assert "storage of 1,000 samples, of which the steps read 640,000: 640.00 times each" in page
    operations = float(page.partition("operations")[2].split()[0]) * 1e12
    products = float(page.partition("products ")[2].split()[0]) / 1e3
    assert products == pytest.approx(operations * 64 / (DEVICES["l4"].peak * 0.5), rel=0.02)
    assert max(map(len, page.splitlines())) <= 120


def test_the_memory_of_the_loader_is_told(tmp_path: Path) -> None:
    """One shard a lane, twice with the next read ahead; as large as 10,000 samples where no index says it."""
    recipe = yaml.safe_load(path_of("toybox/base").read_text())
    shard = 10_000 * (COUNTED.image + COUNTED.embeddings)
    machine = Machine(DEVICES["l4"], devices=2, batch_size=4, batches=1)

    def told(**data: Any) -> str:
        place = tmp_path / "r.yaml"
        place.write_text(yaml.safe_dump({**recipe, "data": {**recipe["data"], "train": str(tmp_path), **data}}))
        return _loader(plan.read(place), COUNTED, machine)

    ahead = told(lanes=8, num_workers=2, read_ahead=True)
    assert f"at most {4 * 2 * shard / 1e9:.3g} GB, one shard of each of 4 lanes, and the next of each" in ahead
    assert f"at most {4 * shard / 1e9:.3g} GB, one shard of each of 4 lanes (" in told(
        lanes=8, num_workers=2, read_ahead=False
    )
    assert "one shard of each of 6 lanes" in told(lanes=3, num_workers=2)
    assert "a multiple of devices times workers need less" in told(lanes=3, num_workers=2)


def test_measured_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = yaml.safe_load(path_of("toybox/base").read_text())
    recipe["model"]["denoiser"]["init_args"] |= SMALL
    recipe["data"]["batch_size"] = 4
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["plan", str(tmp_path / "tiny.yaml"), "--measured"]) == 0
    assert "measured here" in capsys.readouterr().out


def test_device_types_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "paper/base64", "--device-type", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(DEVICES)
    assert any(line.split()[:5] == ["a100-80", "80", "GB", "312", "TFLOP/s"] for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toybox/base", "--device-type", "a100-8"], "no device type named 'a100-8'"),
        (["toybox/base", "--utilisation", "1.5"], "utilisation must be in (0, 1], got 1.5"),
        (["toybox/base", "--devices", "0"], "devices must be at least 1, got 0"),
        (["toybox/bse"], "no file or recipe named 'toybox/bse'"),
        (["toybox/cascade"], "trains nothing: a recipe of ediffi fit has model, data and trainer"),
        (["toybox/ablation/both"], "has no data.image_size"),
        (["toybox/base", "--devices", "3", "--batch-size", "5"], "cannot be made of batches of 5 on 3 devices"),
    ],
)
def test_bad_words_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) in (1, 2)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: ")
    assert message in line


def test_a_recipe_without_steps_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = yaml.safe_load(path_of("toybox/base").read_text())
    del recipe["trainer"]["max_steps"]
    (tmp_path / "endless.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["plan", str(tmp_path / "endless.yaml")]) == 1
    assert "set trainer.max_steps" in capsys.readouterr().err
