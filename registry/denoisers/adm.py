"""ADM-64 as a trunk: the weights of the published diffusion U-Net of Dhariwal & Nichol (arXiv 2105.05233) in `UNet`.

That network is `UNet` without cross-attention. Its input is the step t of a discrete variance-preserving diffusion
instead of a noise level, and it predicts the noise. EDM's preconditioning makes it a denoiser (Karras et al. 2022,
table 1, the column "iDDPM"), so it works as it is, before text is trained.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.denoisers.unet import UNet

NOT_ADM = "these are not the weights of an ADM of this size"
STEPS = 1000
"""Steps of the diffusion that the published networks were trained on."""
RESIDUAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "scale_shift": "emb_layers.1"}
RESIDUAL |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "skip": "skip_connection"}
"""Layers of a residual block, here and in ADM."""
AttentionOrder = Literal["new", "legacy"]


class Sinusoids(nn.Module):
    """ADM's features of a step: `[cos(f t), sin(f t)]` for frequencies f from 1 to 1/10000 in a geometric row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Features [b, width] of the steps `t` [b]."""
        half = self.width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=t.dtype) / half)
        angles = t[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class IDDPM:
    """`c_skip = 1`, `c_out = -s`, `c_in = 1/sqrt(s² + 1)`, `c_noise = t(s)`: the network predicts the noise.

    `t` inverts the cosine schedule that ADM-64 was trained on (Nichol & Dhariwal 2021, equation 17), between its 1,000
    steps by interpolation in ln sigma; EDM takes the nearest step instead. Noise beyond the schedule counts as its
    first or last step.
    """

    def __init__(self) -> None:
        self.log_sigmas = _cosine_log_sigmas()

    def __call__(self, sigma: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and c_noise, [b] each."""
        return torch.ones_like(sigma), -sigma, (sigma.square() + 1).rsqrt(), self.steps(sigma)

    def steps(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The steps t [b], in [0, 999], at which the diffusion has these noise levels."""
        known = self.log_sigmas.to(sigma)
        wanted = sigma.log().clamp(known[0], known[-1])
        upper = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
        low, high = known[upper - 1], known[upper]
        return (upper - 1).to(sigma.dtype) + (wanted - low) / (high - low)


def _cosine_log_sigmas() -> Float[Tensor, " t"]:
    """ln sigma of each step: sigma² = (1 - abar)/abar, with betas of the cosine schedule cut at 0.999."""

    def alpha_bar(t: Tensor) -> Tensor:
        return ((t / STEPS + 0.008) / 1.008 * math.pi / 2).cos().square()

    t = torch.arange(STEPS, dtype=torch.float64)
    betas = (1 - alpha_bar(t + 1) / alpha_bar(t)).clamp(max=0.999)
    bars = (1 - betas).cumprod(0)
    return (((1 - bars) / bars).log() / 2).float()


def from_adm(weights: Mapping[str, Tensor], network: UNet, attention: AttentionOrder = "new") -> dict[str, Tensor]:
    """The state dict of `network` with the weights of a published ADM.

    The parts that ADM does not have begin without effect: cross-attention, whose last layer starts at zero in
    `network`, and the pooled embeddings, whose projections become zero. The class embeddings of a class-conditional ADM
    are replaced by their mean, added to the time embedding. Of an output that also predicts a variance, only the noise
    is kept. `attention` is the order of q, k and v in the published qkv: "new" (ADM-64) one after the other, "legacy"
    by head. ValueError names a tensor that is missing, left over, or of another shape.
    """
    left, state = dict(weights), network.state_dict()

    def take(theirs: str) -> Tensor:
        if theirs not in left:
            raise ValueError(f"{NOT_ADM}: they have no {theirs!r}")
        return left.pop(theirs).float()

    def put(ours: str, value: Tensor) -> None:
        if state[ours].shape != value.shape:
            wanted = list(state[ours].shape)
            raise ValueError(f"{NOT_ADM}: a tensor is {list(value.shape)} where {wanted} is wanted, for {ours!r}")
        state[ours] = value

    for kind in ("weight", "bias"):
        put(f"stem.{kind}", take(f"input_blocks.0.0.{kind}"))
        put(f"embedding.noise.1.{kind}", take(f"time_embed.0.{kind}"))
        put(f"norm.{kind}", take(f"out.0.{kind}"))
        put(f"out.{kind}", take(f"out.2.{kind}")[:3])
    put("embedding.mix.0.weight", take("time_embed.2.weight"))
    labels = left.pop("label_emb.weight").float().mean(0) if "label_emb.weight" in left else 0.0
    put("embedding.mix.0.bias", take("time_embed.2.bias") + labels)
    for ours, block, theirs in _places(network):
        for mine, yours in RESIDUAL.items():
            for kind in ("weight", "bias"):
                # ADM has no skip convolution where the width stays
                if mine != "skip" or isinstance(block.residual.skip, nn.Conv2d):
                    put(f"{ours}.residual.{mine}.{kind}", take(f"{theirs}.{yours}.{kind}"))
        if block.self_attention is not None:
            stem, _, place = theirs.rpartition(".")
            for mine, yours in {"norm": "norm", "to_qkv": "qkv", "out": "proj_out"}.items():
                for kind in ("weight", "bias"):
                    value = take(f"{stem}.{int(place) + 1}.{yours}.{kind}")
                    if mine == "to_qkv" and attention == "legacy":
                        value = value.unflatten(0, (-1, 3, block.self_attention.head_channels))
                        value = value.transpose(0, 1).flatten(0, 2)
                    put(f"{ours}.self_attention.{mine}.{kind}", value[..., None] if value.ndim == 3 else value)
    for name in state:
        if name.startswith("embedding.pooled."):
            state[name] = torch.zeros_like(state[name])
    if left:
        raise ValueError(f"{NOT_ADM}: {next(iter(left))!r} is left over")
    return state


def _places(network: UNet) -> Iterator[tuple[str, Any, str]]:
    """The name of each block in `UNet`, the block, and the name of its first part in ADM."""
    yield from ((f"down.{i}", block, f"input_blocks.{i + 1}.0") for i, block in enumerate(network.down))
    yield from ((f"middle.{i}", block, f"middle_block.{2 * i}") for i, block in enumerate(network.middle))
    index, parts = -1, 0
    up: Any = network.up
    for i, block in enumerate(up):
        if block.takes_skip:
            index, parts = index + 1, 0
        yield f"up.{i}", block, f"output_blocks.{index}.{parts}"
        parts += 1 + (block.self_attention is not None)
