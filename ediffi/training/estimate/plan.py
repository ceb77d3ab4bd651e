"""What a recipe takes before it is run: memory of a device, time of a step, days, and room for the data.

The network is built and counted on the meta device (`ediffi.training.estimate.workload`); what a step takes follows from the device's
peak and a utilisation, or from steps that were timed on this machine.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ediffi.registry.denoisers.conditioning import ConditionEmbedding
from ediffi.registry.encoders import spec_of_source
from ediffi.training.estimate import params
from ediffi.training.estimate.workload import Workload, count, loss_of

FLOAT, HALF = 4, 2
"""Bytes of float32 and bfloat16."""
BYTES_A_PIXEL = 0.3
"""JPEG at a quality of about 90."""
ASPECT = 4 / 3
"""Pictures keep their longer side in the shards."""


@dataclass(frozen=True)
class Job:
    """What a recipe says of a training run, or of all the runs of a growth schedule.

    Attributes:
        denoiser: the name it is built by.
        settings: of `ediffi fit`.
        steps: name and steps of each run.
        samples: of a step, over all devices.
        devices: that the recipe asks for.
        batch_size: of a device, at a time.
    """

    denoiser: str
    settings: Mapping[str, Any]
    steps: Sequence[tuple[str, int]]
    samples: int
    devices: int
    batch_size: int

    @property
    def all_steps(self) -> int:
        """Steps of all runs."""
        return sum(steps for _, steps in self.steps)

    @property
    def size(self) -> int:
        """Side of the pictures that the network is trained on."""
        return int(self.settings["data"].get("crop_size") or self.settings["data"]["image_size"])

    @property
    def low_res(self) -> int | None:
        """Side of the low-resolution pictures; None in a base stage."""
        low_res = self.settings["model"].get("low_res")
        return None if low_res is None else self.size // int(low_res.get("scale", 4))

    @property
    def low_precision(self) -> bool:
        """Whether it trains in bfloat16 or float16."""
        return "16" in str(self.settings["trainer"].get("precision", ""))

    @property
    def sharded(self) -> bool:
        """Whether weights, gradients and optimiser state are dealt to the devices."""
        return "fsdp" in str(self.settings["trainer"].get("strategy", "")).lower()

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        arguments = self.settings["model"]["denoiser"].get("init_args") or {}
        return bool(arguments.get("gradient_checkpointing", False))


@dataclass(frozen=True)
class Counted:
    """A network, counted.

    Attributes:
        parameters: their number.
        plain: a step.
        checkpointed: a step with activation checkpointing; the same, where the network knows none.
        picture: bytes of a sample's picture in the shards.
        embeddings: bytes of its embeddings.
    """

    parameters: int
    plain: Workload
    checkpointed: Workload
    picture: float
    embeddings: float


def read(path: Path) -> Job:
    """What a recipe of `ediffi fit` or of `ediffi grow` says.

    Raises:
        FileNotFoundError: the recipe, or the one of its nodes, is missing.
        ValueError: it is none of the two, or says nothing of steps, data or devices.
    """
    settings, steps = params.training(path)
    trainer, data = settings["trainer"], settings["data"]
    steps = steps or [("all noise", int(trainer.get("max_steps") or -1))]
    if any(number < 1 for _, number in steps):
        raise ValueError(f"{path} does not say for how many steps: set trainer.max_steps")
    devices, nodes = trainer.get("devices", 1), int(trainer.get("num_nodes") or 1)
    each = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    batch = int(data.get("batch_size", 128))
    samples = batch * each * nodes * int(trainer.get("accumulate_grad_batches") or 1)
    name = str(settings["model"]["denoiser"]["class_path"]).rpartition(".")[2]
    return Job(name, settings, steps, samples, each * nodes, batch)


def counted(path: Path, job: Job) -> Counted:
    """Count the network of a recipe, as it stands and with checkpointing, which a plug-in may not have.

    Raises:
        ValueError: the network cannot be built, or not run without data.
    """
    with torch.device("meta"):
        _, denoiser = params.network(path, job.settings["model"]["denoiser"])
    switch, works = getattr(denoiser.network, "gradient_checkpointing", None), []
    for checkpointing in (False, True):
        if switch is not None:
            denoiser.network.gradient_checkpointing = checkpointing  # type: ignore[assignment]
        try:
            works.append(count(denoiser, job.size, job.low_res, job.low_precision))
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{job.denoiser} cannot be counted without data: {error}") from error
    data = bytes_a_sample(denoiser, int(job.settings["data"]["image_size"]))
    return Counted(sum(parameter.numel() for parameter in denoiser.parameters()), works[0], works[1], *data)


def memory(job: Job, network: Counted, devices: int, batch_size: int, checkpointing: bool) -> dict[str, float]:
    """Bytes of one device, by what they hold; what the allocator loses between them is not counted."""
    share = network.parameters / (devices if job.sharded else 1)
    work = network.checkpointed if checkpointing else network.plain
    parts = {"weights": FLOAT * share, "gradients": FLOAT * share, "Adam's two moments": 2 * FLOAT * share}
    if any("Averag" in str(c.get("class_path")) for c in job.settings["trainer"].get("callbacks") or []):
        parts["average (EMA)"] = FLOAT * share
    if devices > 1 and not job.sharded:
        parts["buckets of ddp"] = FLOAT * share
    if job.low_precision:
        parts["bfloat16 copies"] = HALF * network.parameters / (devices if job.sharded else 1)
    return parts | {"activations": float(batch_size * work.activations)}


def accumulation(job: Job, devices: int, batch_size: int) -> int:
    """Batches of a device that make a step of as many samples as the recipe's.

    Raises:
        ValueError: no whole number of them does.
    """
    accumulated, rest = divmod(job.samples, devices * batch_size)
    if rest or not accumulated:
        raise ValueError(
            f"a step of {job.samples} samples cannot be made of batches of {batch_size} on {devices} devices; choose "
            "--devices and --batch-size whose product divides it"
        )
    return accumulated


def measure(path: Path, job: Job, batch_size: int, steps: int = 3) -> float:
    """Seconds that a batch takes on this machine: forwards, backwards and the optimiser, the best of a few."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        _, denoiser = params.network(path, job.settings["model"]["denoiser"])
    denoiser = denoiser.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(denoiser.parameters(), fused=True)
    taken = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        with torch.autocast(device, torch.bfloat16) if job.low_precision else nullcontext():
            loss = loss_of(denoiser, batch_size, job.size, job.low_res, device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def bytes_a_sample(denoiser: nn.Module, image_size: int) -> tuple[float, float]:
    """Bytes of a sample's picture, of `image_size` on its shorter side, and of its embeddings in bfloat16, unpadded."""
    embeddings = next((module for module in denoiser.modules() if isinstance(module, ConditionEmbedding)), None)
    picture = BYTES_A_PIXEL * ASPECT * image_size**2
    if embeddings is None:
        return picture, 0.0
    tokens: dict[str, Any] = dict(embeddings.tokens.items())
    pooled: dict[str, Any] = dict(embeddings.pooled.items())
    numbers = sum(spec_of_source(name).caption_tokens * tokens[name][0].in_features for name in tokens)
    return picture, float(HALF * (numbers + sum(layer.in_features for layer in pooled.values())))
