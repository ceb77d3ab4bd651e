"""What a recipe takes before it is run: memory of a device, time of a step, and bytes of the dataset."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ediffi.registry.denoisers.conditioning import widths
from ediffi.registry.encoders import spec_of_source
from ediffi.training.class_paths import AVERAGES
from ediffi.training.estimate import params
from ediffi.training.estimate.devices import Accelerator
from ediffi.training.estimate.workload import Workload, count, loss_of

FLOAT, HALF = 4, 2
"""Bytes of float32 and bfloat16."""
BYTES_A_PIXEL = 0.3
"""JPEG at a quality of about 90."""
ASPECT = 4 / 3
"""Longer side over shorter side: shards have whole images."""

# Speeds on a GPU: measured on one H100 (benchmarks/README.md) where nothing else is said.
TRAFFIC_SHARE = 0.45
"""What norms, sums and copies reach of a memory's bandwidth."""
UPDATE_SHARE = 0.8
"""What the optimiser and the average reach of it: they pass over large tensors once."""
EAGER, COMPILED = 40e-6, 6e-6
"""Seconds of the host for a kernel, from Python and from compiled code; the latter is a bare launch, not measured."""
FUSED = 1.25
"""Traffic of a compiled network, in multiples of the bytes that go into products and come out of them. Not measured:
between two products, fused kernels read what the first wrote, once more for a norm, and write what the second reads."""
REDUCTION = 190e9
"""Bytes a second of NCCL's all-reduce between machines with 8 devices and 8 links of 200 Gbit/s. Not measured here."""
UPDATE, AVERAGE = 7 * FLOAT, 3 * FLOAT
"""Bytes that the step of a weight moves: all four of its numbers read and all but the gradient written; its average."""


@dataclass(frozen=True)
class TrainingPlan:
    """A training run as its recipe describes it, or all runs of a growth schedule."""

    denoiser: str  # registry name
    settings: Mapping[str, Any]  # of `ediffi fit`
    steps: Sequence[tuple[str, int]]  # name and steps of each run
    samples: int  # of a step, over all devices
    devices: int
    batch_size: int  # samples that a device computes at a time
    size: int  # side of the images that the network is trained on
    low_res: int | None  # side of the low-resolution images; None in a base stage
    low_precision: bool  # trains in bfloat16 or float16
    sharded: bool  # weights, gradients and optimiser state are sharded over the devices
    averaged: bool  # an average (EMA) of the weights is computed
    checkpointing: bool  # the backward pass computes activations again
    compiled: bool  # by torch.compile
    bucket_view: bool  # gradients are views of ddp's buckets

    @property
    def all_steps(self) -> int:
        """Steps of all runs."""
        return sum(steps for _, steps in self.steps)


class NetworkCost(NamedTuple):
    """Size of a network, and the cost of training it on one sample."""

    parameters: int
    plain: Workload  # a step
    checkpointed: Workload  # a step with activation checkpointing; as `plain` for a network without this option
    image: float  # bytes of the image in the shards
    embeddings: float  # bytes of its embeddings


def read(path: Path) -> TrainingPlan:
    """Read a recipe of `ediffi fit` or of `ediffi grow`; ValueError if it is neither, or has no number of steps."""
    settings, steps = params.read_training(path)
    trainer, data, model = settings["trainer"], settings["data"], settings["model"]
    if "image_size" not in data:
        raise ValueError(f"{path} has no data.image_size; a recipe that only changes another one cannot be planned")
    steps = steps or [("all noise", int(trainer.get("max_steps") or -1))]
    if any(number < 1 for _, number in steps):
        raise ValueError(f"{path} has no number of steps: set trainer.max_steps")
    devices, nodes = trainer.get("devices", 1), int(trainer.get("num_nodes") or 1)
    each = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    batch, size = int(data.get("batch_size", 128)), int(data.get("crop_size") or data["image_size"])
    low_res, callbacks = model.get("low_res"), trainer.get("callbacks") or []
    strategy = trainer.get("strategy", "")
    ddp = (strategy.get("init_args") or {}) if isinstance(strategy, dict) else {}
    return TrainingPlan(
        str(model["denoiser"]["class_path"]).rpartition(".")[2],
        settings,
        steps,
        samples=batch * each * nodes * int(trainer.get("accumulate_grad_batches") or 1),
        devices=each * nodes,
        batch_size=batch,
        size=size,
        low_res=None if low_res is None else size // int(low_res.get("scale", 4)),
        low_precision="16" in str(trainer.get("precision", "")),
        sharded="fsdp" in str(strategy).lower() or "ModelParallelStrategy" in str(strategy),
        averaged=any(str(callback.get("class_path")).endswith(AVERAGES) for callback in callbacks),
        checkpointing=bool((model["denoiser"].get("init_args") or {}).get("gradient_checkpointing", False)),
        compiled=bool(model.get("compile", False)),
        bucket_view=bool(ddp.get("gradient_as_bucket_view", False)),
    )


def network_cost(path: Path, plan: TrainingPlan) -> NetworkCost:
    """Count the network of a recipe without checkpointing and with it; ValueError if it cannot run without data."""
    with torch.device("meta"):
        _, denoiser = params.build_denoiser(path, plan.settings["model"]["denoiser"])
    workloads = []
    for checkpointing in (False, True):
        if hasattr(denoiser.network, "gradient_checkpointing"):  # not so in every plug-in
            denoiser.network.gradient_checkpointing = checkpointing  # type: ignore[assignment]
        try:
            workloads.append(count(denoiser, plan.size, plan.low_res, plan.low_precision))
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{plan.denoiser} cannot be counted without data: {error}") from error
    image = BYTES_A_PIXEL * ASPECT * int(plan.settings["data"]["image_size"]) ** 2
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    return NetworkCost(parameters, workloads[0], workloads[1], image, embedding_bytes(denoiser))


def embedding_bytes(denoiser: nn.Module) -> float:
    """Bytes of the embeddings of a sample that a denoiser reads, in bfloat16, at captions of common length."""
    read = widths(denoiser)
    tokens = sum(spec_of_source(name).caption_tokens * sizes.get("width", 0) for name, sizes in read.items())
    return float(HALF * (tokens + sum(sizes.get("pooled_width", 0) for sizes in read.values())))


def memory(
    plan: TrainingPlan, network: NetworkCost, devices: int, batch_size: int, checkpointing: bool
) -> dict[str, float]:
    """Bytes on one device, by purpose; what the allocator wastes is not counted."""
    here = network.parameters / (devices if plan.sharded else 1)
    workload = network.checkpointed if checkpointing else network.plain
    parts = {"weights": FLOAT * here, "gradients": FLOAT * here, "Adam's two moments": 2 * FLOAT * here}
    if plan.averaged:
        parts["average (EMA)"] = FLOAT * here
    if devices > 1 and not (plan.sharded or plan.bucket_view):
        parts["buckets of ddp"] = FLOAT * here
    if plan.low_precision:
        parts["bfloat16 copies"] = HALF * here
    return parts | {"activations": float(batch_size * workload.activations)}


class StepTime(NamedTuple):
    """Seconds of a training step on each device."""

    products: float  # convolutions, matrix products, attention
    traffic: float  # norms, sums, casts and copies
    launches: float  # what the host needs to launch all kernels, where that is longer than both; only the rest of it
    update: float  # optimiser and average
    reduction: float  # sums of gradients that the backward pass does not hide


def step_time(
    plan: TrainingPlan, network: NetworkCost, kind: Accelerator, devices: int, batch_size: int, share: float
) -> StepTime:
    """A roofline: products at a `share` of the peak, everything else at the bandwidth, and the host as a floor.

    Kernels run one after the other, so their times add up. Gradients are summed over all devices while the last batch
    of a step runs backwards, which is two thirds of its time.
    """
    work, batches = (
        network.checkpointed if plan.checkpointing else network.plain,
        accumulation(plan, devices, batch_size),
    )
    moved = FUSED * work.edges if plan.compiled else work.traffic
    products = batch_size * work.step / (kind.peak * share)
    traffic = (batch_size * moved + work.weights) / (kind.bandwidth * TRAFFIC_SHARE)
    host = 2 * work.products * COMPILED if plan.compiled else work.launches * EAGER
    launches = max(0.0, host - products - traffic)
    held = network.parameters / (devices if plan.sharded else 1)
    update = held * (UPDATE + AVERAGE * plan.averaged) / (kind.bandwidth * UPDATE_SHARE)
    summed = 2 * (devices - 1) / devices * FLOAT * network.parameters / REDUCTION
    reduction = max(0.0, summed - 2 / 3 * (products + traffic + launches))
    return StepTime(batches * products, batches * traffic, batches * launches, update, reduction)


def accumulation(plan: TrainingPlan, devices: int, batch_size: int) -> int:
    """Batches on each device that make a step of the recipe's samples; ValueError if that is no whole number."""
    accumulated, rest = divmod(plan.samples, devices * batch_size)
    if rest or not accumulated:
        raise ValueError(
            f"a step of {plan.samples} samples cannot be made of batches of {batch_size} on {devices} devices; choose "
            "--devices and --batch-size whose product divides it"
        )
    return accumulated


def measure(path: Path, plan: TrainingPlan, batch_size: int, steps: int = 3) -> float:
    """Seconds for a batch on this machine, forwards, backwards and the optimiser: the fastest of a few."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        _, denoiser = params.build_denoiser(path, plan.settings["model"]["denoiser"])
    denoiser = denoiser.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(denoiser.parameters(), fused=True)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16) if plan.low_precision else nullcontext():
            loss = loss_of(denoiser, batch_size, plan.size, plan.low_res, device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])  # the first one warms up
