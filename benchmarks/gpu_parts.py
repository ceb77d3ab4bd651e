"""What `gpu.py` measures, in two sizes: the paper's networks, their peers in diffusers, training, a model folder."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from paint_overhead import conditioning
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.flop_counter import FlopCounterMode

from ediffi.data.stream import Batch
from ediffi.diffusion.experts import Expert
from ediffi.diffusion.low_res import LowResolution
from ediffi.diffusion.noise import ROOT, Complement, Interval, LogNormal
from ediffi.hub.config import Part
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade
from ediffi.registry import denoisers
from ediffi.registry.denoisers.precondition import Preconditioned, upsample
from ediffi.registry.types import Conditioning
from ediffi.training.callbacks.ema import EMA
from ediffi.training.lightning_module import DiffusionStage

Tokens = Mapping[str, tuple[int, int]]
"""Number of tokens and their width by source."""
PAPER_TOKENS = {"clip_text": (77, 768), "t5": (113, 4096), "clip_image": (1, 768)}
TINY_TOKENS = {"clip_text": (12, 16), "t5": (12, 16), "clip_image": (1, 16)}
TINY = {"channels": 16, "channel_mults": (1, 2), "head_channels": 8, "norm_groups": 4, "context_width": 16}
TINY |= {"tokens": {"clip_text": 16, "t5": 16, "clip_image": 16}, "pooled": {"clip_text": 16, "clip_image": 16}}
TINY_BASE = TINY | {"num_res_blocks": 1, "attention_levels": (1,)}
TINY_SR = TINY | {"num_res_blocks": (1, 1), "cross_attention_levels": (1,)}
LOW, HIGH = Interval(2, 0), Interval(2, 3)


@dataclass(frozen=True)
class Network:
    """A registered denoiser as it is trained, and its peer's widths, blocks a level, and levels that attend."""

    name: str
    arguments: Mapping[str, Any]
    batch: int
    side: int
    low: int | None
    peer: tuple[tuple[int, ...], int, tuple[int, ...]]
    tokens: Tokens

    def build(self, device: torch.device, **changes: Any) -> Preconditioned:
        """The denoiser with no weight zero, as if trained, so that no gradient and no image is trivial."""
        with device:
            network = denoisers.create(self.name, **{**self.arguments, **changes})
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        return network

    def cond(self, batch: int, device: torch.device, painted: bool = False) -> Conditioning:
        """Random embeddings, all tokens real; for super-resolution, the images to enlarge."""
        cond = conditioning(dict(self.tokens), batch, painted).to(device)
        if self.low is None:
            return cond
        return cond.with_low_res(
            torch.randn(batch, 3, self.low, self.low, device=device), torch.full((batch,), 0.1, device=device)
        )

    def call(self, batch: int, device: torch.device, side: int | None = None) -> tuple[Tensor, Tensor, Conditioning]:
        """The arguments of a network call."""
        size = side or self.side
        x = torch.randn(batch, 3, size, size, device=device)
        return x, torch.full((batch,), 2.0, device=device), self.cond(batch, device)


PAPER = {
    "base64": Network("unet_base64", {}, 64, 64, None, ((256, 512, 896, 896), 3, (1, 2, 3)), PAPER_TOKENS),
    "sr256": Network("efficient_sr256", {}, 16, 256, 64, ((128, 256, 512, 896), 3, (3,)), PAPER_TOKENS),
    "sr1024": Network("efficient_sr1024", {}, 16, 256, 64, ((128, 256, 448, 512), 3, ()), PAPER_TOKENS),
}
DRY = {
    "base64": Network("unet_base64", TINY_BASE, 2, 16, None, ((32, 64), 1, (1,)), TINY_TOKENS),
    "sr256": Network(
        "efficient_sr256", TINY_SR | {"self_attention_levels": (1,)}, 2, 16, 4, ((32, 64), 1, (1,)), TINY_TOKENS
    ),
    "sr1024": Network("efficient_sr1024", TINY_SR, 2, 16, 4, ((32, 64), 1, ()), TINY_TOKENS),
}
"""The same structure, tiny."""


class Peer(nn.Module):
    """diffusers' `UNet2DConditionModel` with the inputs of our networks."""

    def __init__(self, network: Network, width: int, pooled_width: int) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        widths, blocks, attending = network.peer
        levels = range(len(widths))
        self.tokens = nn.ModuleDict({name: nn.Linear(size, width) for name, (_, size) in network.tokens.items()})
        pooled = {name: size for name, (_, size) in network.tokens.items() if name != "t5"}
        self.pooled = nn.ModuleDict({name: nn.Linear(size, pooled_width) for name, size in pooled.items()})
        self.unet = UNet2DConditionModel(
            in_channels=3 if network.low is None else 6,
            out_channels=3,
            down_block_types=tuple("CrossAttnDownBlock2D" if i in attending else "DownBlock2D" for i in levels),
            up_block_types=tuple("CrossAttnUpBlock2D" if i in attending else "UpBlock2D" for i in reversed(levels)),
            block_out_channels=widths,
            layers_per_block=blocks,
            attention_head_dim=tuple(width // 64 or 1 for width in widths),  # the number of heads, despite its name
            resnet_time_scale_shift="scale_shift",
            cross_attention_dim=width,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=pooled_width,
        )

    def forward(self, x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        """The raw output [b, 3, h, w]."""
        if cond.low_res is not None:
            x = torch.cat([x, upsample(cond.low_res, (x.shape[-2], x.shape[-1])).to(x.dtype)], dim=1)
        tokens = torch.cat([project(cond.sources[name].tokens) for name, project in self.tokens.items()], dim=1)
        pooled = sum(project(cond.sources[name].pooled) for name, project in self.pooled.items())
        return self.unet(x, c_noise, tokens, class_labels=pooled).sample

    def compile(self, **options: Any) -> None:  # type: ignore[override]
        """Compile its blocks, as those of our networks are, instead of all of it."""
        from diffusers.models.resnet import ResnetBlock2D
        from diffusers.models.transformers.transformer_2d import Transformer2DModel

        for module in self.unet.modules():
            if isinstance(module, ResnetBlock2D | Transformer2DModel):
                module.compile(fullgraph=True, **options)


def peer(network: Network, device: torch.device) -> Preconditioned:
    """The peer as a denoiser."""
    with device:
        return Preconditioned(Peer(network, 1024 if network.tokens is PAPER_TOKENS else 32, 1024))


def step_flops(denoiser: nn.Module, network: Network, device: torch.device) -> int:
    """FLOPs of a forward and backward pass of one sample, two for a multiply-add."""
    x, sigma, cond = network.call(1, device)
    with FlopCounterMode(display=False) as counter, torch.autocast(device.type, torch.bfloat16):
        denoiser(x, sigma, cond).square().mean().backward()
    denoiser.zero_grad(set_to_none=True)
    return counter.get_total_flops()


class Repeated(IterableDataset[Batch]):
    """One batch on the CPU, again and again, at the positions of a run."""

    def __init__(self, network: Network, batch: int) -> None:
        cpu = torch.device("cpu")
        images, cond = torch.rand(batch, 3, network.side, network.side) * 2 - 1, network.cond(batch, cpu)
        self.batch = Batch(images, replace(cond, aug_level=None), [str(i) for i in range(batch)], [""] * batch, 0)

    def __iter__(self) -> Iterator[Batch]:
        index = 0
        while True:
            yield replace(self.batch, index=index)
            index += 1


class Clock(L.Callback):
    """Seconds to the end of the first step, and of a step after `warm` ones; the device has finished at both ends."""

    def __init__(self, warm: int, steps: int) -> None:
        self.warm, self.last = warm, warm + steps
        self.begun, self.first, self.seconds = time.perf_counter(), 0.0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Read the clock at three steps."""
        if trainer.global_step not in (1, self.warm, self.last):
            return
        synchronize()
        now = time.perf_counter()
        if trainer.global_step == 1:
            self.first = now - self.begun
        if trainer.global_step == self.last:
            self.seconds = (now - self.at_warm) / (self.last - self.warm)
        self.at_warm = now


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train(stage: DiffusionStage, data: Any, device: torch.device, folder: Path, warm: int, steps: int) -> Clock:
    """Train as `ediffi fit` does, without logging and checkpoints."""
    clock = Clock(warm, steps)
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        benchmark=True,
        max_steps=warm + steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[EMA(0.9999), clock],
    )
    trainer.fit(stage, data)
    return clock


def train_repeated(
    network: Network,
    denoiser: Preconditioned,
    device: torch.device,
    folder: Path,
    compile: bool,
    batch: int,
    steps: int,
) -> Clock:
    """Train on one batch again and again."""
    low_res = None if network.low is None else LowResolution(scale=network.side // network.low)
    stage = DiffusionStage(denoiser, low_res=low_res, compile=compile)
    return train(stage, DataLoader(Repeated(network, batch), batch_size=None), device, folder, min(3, steps), steps)


def write_cascade(folder: Path, networks: Mapping[str, Network], device: torch.device, experts: bool) -> None:
    """Write a model folder of random weights: one network a stage, or the base stage with three experts."""
    last = max(network.side for network in networks.values())
    sides = dict(zip(networks, (networks["base64"].side, last, 4 * last), strict=True))
    stages = []
    for name, network in list(networks.items())[: 1 if experts else None]:
        regions = (LOW, Complement((LOW, HIGH)), HIGH) if experts else (ROOT,)
        trained = [TrainedExpert(Expert(region), network.build(device).state_dict()) for region in regions]
        paper = Sampling("kutta3", 26, 5.0, rho=6.0) if network.low is None else Sampling("kutta3", 11, rho=3.0)
        sampling = paper if network.tokens is PAPER_TOKENS else replace(paper, num_inference_steps=3)
        part = Part(network.name, {k: list(v) if isinstance(v, tuple) else v for k, v in network.arguments.items()})
        aug_level = None if network.low is None else 0.05
        stages.append(TrainedStage(name, sides[name], part, LogNormal(), trained, sampling, aug_level))
    save_cascade(folder, "random", {}, None, stages)
