"""ADM as a trunk: a network of the published layout, re-stated here, and ours with its weights, agree."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ediffi.registry import denoisers
from ediffi.registry.denoisers.adm import IDDPM, from_adm
from ediffi.registry.types import Conditioning, Embedding

CHANNELS, MULTS, BLOCKS, HEAD = 32, (1, 2), 2, 16
TINY = {"channels": CHANNELS, "channel_mults": MULTS, "num_res_blocks": BLOCKS, "attention_levels": (1,)}
TINY |= {"head_channels": HEAD, "norm_groups": 32, "context_width": 16}
TINY |= {"tokens": {"t5": 8}, "pooled": {"clip_text": 6}}
Weights = dict[str, Tensor]


class Published:
    """guided-diffusion's U-Net as functions of a flat state, written from its layout: what the names mean."""

    def __init__(self, state: Weights, order: str) -> None:
        self.state, self.order = state, order

    def conv(self, name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def residual(self, name: str, x: Tensor, emb: Tensor, how: str = "") -> Tensor:
        def change(t: Tensor) -> Tensor:
            if how == "down":
                return F.avg_pool2d(t, 2)
            return t.repeat_interleave(2, 2).repeat_interleave(2, 3) if how == "up" else t

        h = self.conv(f"{name}.in_layers.2", change(F.silu(self.norm(f"{name}.in_layers.0", x))))
        scale, shift = self.linear(f"{name}.emb_layers.1", F.silu(emb))[..., None, None].chunk(2, 1)
        h = F.silu(self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift)
        h = self.conv(f"{name}.out_layers.3", h)
        x = change(x)
        if f"{name}.skip_connection.weight" in self.state:
            x = self.conv(f"{name}.skip_connection", x, padding=0)
        return x + h

    def attention(self, name: str, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        flat = self.norm(f"{name}.norm", x).flatten(2)
        qkv = F.conv1d(flat, self.state[f"{name}.qkv.weight"], self.state[f"{name}.qkv.bias"])
        heads = c // HEAD
        if self.order == "new":
            q, k, v = (part.reshape(b * heads, HEAD, -1) for part in qkv.chunk(3, 1))
        else:
            q, k, v = qkv.reshape(b * heads, 3 * HEAD, -1).split(HEAD, 1)
        weight = torch.einsum("bct,bcs->bts", q * HEAD**-0.25, k * HEAD**-0.25).softmax(-1)
        gathered = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        out = F.conv1d(gathered, self.state[f"{name}.proj_out.weight"], self.state[f"{name}.proj_out.bias"])
        return x + out.reshape(b, c, height, width)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(CHANNELS // 2) / (CHANNELS // 2))
        args = t[:, None] * frequencies[None]
        emb = self.linear("time_embed.0", torch.cat([args.cos(), args.sin()], -1))
        emb = self.linear("time_embed.2", F.silu(emb)) + self.state["label_emb.weight"].mean(0)
        hs = [self.conv("input_blocks.0.0", x)]
        for index, (attends, how) in enumerate([(False, "")] * 2 + [(False, "down")] + [(True, "")] * 2, start=1):
            h = self.residual(f"input_blocks.{index}.0", hs[-1], emb, how)
            hs.append(self.attention(f"input_blocks.{index}.1", h) if attends else h)
        h = self.residual("middle_block.0", hs[-1], emb)
        h = self.residual("middle_block.2", self.attention("middle_block.1", h), emb)
        for index in range(6):
            h = self.residual(f"output_blocks.{index}.0", torch.cat([h, hs.pop()], 1), emb)
            if index < 3:
                h = self.attention(f"output_blocks.{index}.1", h)
            if index == 2:
                h = self.residual("output_blocks.2.2", h, emb, "up")
        return self.conv("out.2", F.silu(self.norm("out.0", h)))


def published_state() -> Weights:
    """Random weights by the published names, of a two-level network."""
    state: Weights = {}
    wide, emb = 2 * CHANNELS, 4 * CHANNELS

    def layer(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(shape) / max(1, math.prod(shape[1:])) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[0]) * 0.1

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + 0.1 * torch.randn(width), 0.1 * torch.randn(width)

    def residual(name: str, into: int, out: int) -> None:
        norm(f"{name}.in_layers.0", into)
        layer(f"{name}.in_layers.2", out, into, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * out, emb)
        norm(f"{name}.out_layers.0", out)
        layer(f"{name}.out_layers.3", out, out, 3, 3)
        if into != out:
            layer(f"{name}.skip_connection", out, into, 1, 1)

    def attention(name: str) -> None:
        norm(f"{name}.norm", wide)
        layer(f"{name}.qkv", 3 * wide, wide, 1)
        layer(f"{name}.proj_out", wide, wide, 1)

    layer("time_embed.0", emb, CHANNELS)
    layer("time_embed.2", emb, emb)
    state["label_emb.weight"] = torch.randn(10, emb)
    layer("input_blocks.0.0", CHANNELS, 3, 3, 3)
    for index, (into, out) in enumerate([(CHANNELS, CHANNELS)] * 3 + [(CHANNELS, wide), (wide, wide)], start=1):
        residual(f"input_blocks.{index}.0", into, out)
        if index > 3:
            attention(f"input_blocks.{index}.1")
    residual("middle_block.0", wide, wide)
    attention("middle_block.1")
    residual("middle_block.2", wide, wide)
    skips = [wide, wide, CHANNELS, CHANNELS, CHANNELS, CHANNELS]
    width = wide
    for index, skip in enumerate(skips):
        out = wide if index < 3 else CHANNELS
        residual(f"output_blocks.{index}.0", width + skip, out)
        if index < 3:
            attention(f"output_blocks.{index}.1")
        width = out
    residual("output_blocks.2.2", wide, wide)
    norm("out.0", CHANNELS)
    layer("out.2", 6, CHANNELS, 3, 3)
    return state


@pytest.fixture(scope="module")
def state() -> Weights:
    torch.manual_seed(3)
    return published_state()


def fitted(state: Weights, order: str = "new") -> nn.Module:
    denoiser = denoisers.create("unet_adm64", **TINY)
    denoiser.network.load_state_dict(from_adm(state, denoiser.network, order))
    return denoiser


def cond(batch: int) -> Conditioning:
    tokens = Embedding(torch.randn(batch, 3, 8), torch.ones(batch, 3, dtype=torch.bool))
    pooled = Embedding(torch.randn(batch, 3, 5), torch.ones(batch, 3, dtype=torch.bool), torch.randn(batch, 6))
    return Conditioning({"t5": tokens, "clip_text": pooled})


@pytest.mark.parametrize("order", ["new", "legacy"])
def test_the_network_computes_what_the_published_one_does(state: Weights, order: str) -> None:
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        ours = fitted(state, order).network(x, t, cond(2))
        theirs = Published(state, order)(x, t)[:, :3]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert theirs.std() > 0.1


def test_the_orders_of_attention_are_not_the_same(state: Weights) -> None:
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([3.0])
    with torch.no_grad():
        new, legacy = (fitted(state, order).network(x, t, cond(1)) for order in ("new", "legacy"))
    assert (new - legacy).abs().max() > 1e-3


def test_the_denoiser_takes_the_noise_that_the_network_predicts(state: Weights) -> None:
    denoiser, steps = fitted(state), IDDPM()
    sigma = steps.log_sigmas[[10, 500, 999]].exp()
    x = torch.randn(3, 3, 16, 16) * sigma.view(-1, 1, 1, 1)
    with torch.no_grad():
        scaled = x / (sigma.square() + 1).sqrt().view(-1, 1, 1, 1)
        noise = Published(state, "new")(scaled, torch.tensor([10.0, 500.0, 999.0]))[:, :3]
        torch.testing.assert_close(
            denoiser(x, sigma, cond(3)), x - sigma.view(-1, 1, 1, 1) * noise, rtol=1e-3, atol=1e-3
        )


def test_steps_are_those_of_diffusers_cosine_schedule() -> None:
    from diffusers import DDPMScheduler

    bars = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    sigma = ((1 - bars) / bars).sqrt()
    torch.testing.assert_close(IDDPM().log_sigmas.double(), sigma.log(), rtol=1e-4, atol=1e-4)
    found = IDDPM().steps(sigma.float())
    torch.testing.assert_close(found, torch.arange(1000.0), rtol=0, atol=0.05)
    assert IDDPM().steps(torch.tensor([1e-6, 1e9])).tolist() == [0, 999]


def test_text_begins_to_speak_in_training(state: Weights) -> None:
    denoiser = fitted(state)
    x, sigma, given = torch.randn(2, 3, 16, 16), torch.ones(2), cond(2)
    denoiser(x, sigma, given).square().mean().backward()
    for name in ("middle.0.cross_attention.out.weight", "embedding.pooled.clip_text.weight"):
        assert denoiser.network.get_parameter(name).grad.abs().max() > 0


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("time_embed.2.bias"), "they have no 'time_embed.2.bias'"),
        (lambda state: state | {"more": torch.ones(1)}, "'more' is left over"),
        (
            lambda state: state | {"input_blocks.1.0.emb_layers.1.bias": torch.ones(7)},
            r"a tensor is \[7\] where \[64\]",
        ),
    ],
    ids=["missing", "left over", "shape"],
)
def test_weights_of_another_network_are_named(
    state: Weights, spoil: Callable[[Weights], Weights], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(spoil(state))
