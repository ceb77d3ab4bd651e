"""The block of both U-Nets: a residual block, then self-attention, cross-attention and feed-forward if they are on."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ediffi.registry.denoisers.attention import (
    Context,
    CrossAttention,
    FeedForward,
    Pointwise,
    SelfAttention,
    keys_values,
    zeroed,
)
from ediffi.registry.denoisers.cast import autocast_weights, call, projections
from ediffi.registry.denoisers.conditioning import ConditionEmbedding
from ediffi.registry.denoisers.norm import GroupNorm

Resample = Literal["down", "up"]


def resample(x: Float[Tensor, "b c h w"], how: Resample | None) -> Float[Tensor, "b c H W"]:
    """Halve the resolution by averaging, double it by repeating, or keep it."""
    if how == "down":
        return F.avg_pool2d(x, 2)
    return doubled(x) if how == "up" else x


def doubled(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
    """Repeat each pixel twice in each direction, in the dtype of x: autocast would make it float32."""
    # torch 2.11 breaks the graph at the question; what is compiled has an autocast
    known = torch.compiler.is_compiling() or torch.amp.is_autocast_available(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if known else nullcontext():
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice; the global embedding scales and shifts the second norm (ADM).

    `how` changes the resolution inside the block, on both branches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        how: Resample | None = None,
        dropout: float = 0.0,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        self.how = how
        self.norm1 = GroupNorm(norm_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(embedding_width, 2 * out_channels)
        self.norm2 = GroupNorm(norm_groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else Pointwise(in_channels, out_channels)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        embedding: Float[Tensor, "b width"],
        scale_shift: Float[Tensor, "b shifts"] | None = None,
    ) -> Float[Tensor, "b out H W"]:
        """Features [b, out_channels, H, W]; `scale_shift` is that of the embedding, if it is known already."""
        h = self.conv1(resample(self.norm1(x, silu=True), self.how))
        h = self.norm2(h, self.scale_shift(embedding) if scale_shift is None else scale_shift, silu=True)
        return self.skip(resample(x, self.how)) + self.conv2(self.dropout(h))


class Block(nn.Module):
    """A residual block, followed by self-attention and cross-attention if they are on, and then a feed-forward.

    `embedding` gives the widths of the global embedding and of the context; `feed_forward` is the width of the
    feed-forward in multiples of its input's, 0 for none. `takes_skip` says that the decoder
    concatenates an encoder's output to the input of this block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: ConditionEmbedding,
        head_channels: int,
        norm_groups: int,
        self_attention: bool = False,
        cross_attention: bool = False,
        feed_forward: int = 0,
        *,
        how: Resample | None = None,
        dropout: float = 0.0,
        takes_skip: bool = False,
    ) -> None:
        super().__init__()
        if feed_forward < 0:
            raise ValueError(f"feed_forward must be at least 0, got {feed_forward}")
        self.residual = ResidualBlock(in_channels, out_channels, embedding.width, how, dropout, norm_groups)
        self.self_attention = SelfAttention(out_channels, head_channels, norm_groups) if self_attention else None
        self.cross_attention = self.feed_forward = None
        if cross_attention:
            widths = embedding.token_widths if embedding.context_width is None else embedding.context_width
            self.cross_attention = CrossAttention(out_channels, widths, head_channels, norm_groups)
        if feed_forward and (self_attention or cross_attention):
            self.feed_forward = FeedForward(out_channels, feed_forward, norm_groups)
        self.takes_skip = takes_skip

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        embedding: Float[Tensor, "b width"],
        context: Context,
        scale_shift: Float[Tensor, "b shifts"] | None = None,
    ) -> Float[Tensor, "b out H W"]:
        """Features [b, out_channels, H, W]; `scale_shift` as in `ResidualBlock`."""
        x = self.residual(x, embedding, scale_shift)
        if self.self_attention is not None:
            x = self.self_attention(x)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context)
        return x if self.feed_forward is None else self.feed_forward(x)


def block_inputs(
    blocks: Sequence[Any], embedding: Float[Tensor, "b width"], context: Context, checkpointing: bool
) -> Iterator[tuple[Tensor | None, Context]]:
    """What scales and shifts each block's norm, and its context with its keys and values if they are known, for `run`.

    With `checkpointing` they are not, since those of all blocks would stay in memory.
    """
    attending = [block.cross_attention for block in blocks if block.cross_attention is not None and not checkpointing]
    known = dict(zip(attending, keys_values(attending, context), strict=True))
    shifts = projections([block.residual.scale_shift for block in blocks], embedding)
    contexts = (replace(context, projected=known.get(block.cross_attention)) for block in blocks)
    return zip(shifts, contexts, strict=True)


def run(
    block: nn.Module,
    x: Tensor,
    scale_shift: Tensor | None,
    context: Context,
    embedding: Tensor,
    checkpointing: bool,
) -> Tensor:
    """The block's output; with `checkpointing` its activations are recomputed in the backward pass, not stored."""
    known = {"residual.scale_shift": scale_shift, "cross_attention.to_kv": context.projected}
    weights = autocast_weights(block, but=[name for name, value in known.items() if value is not None])
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(call, block, weights, x, embedding, context, scale_shift, use_reentrant=False)
    return call(block, weights, x, embedding, context, scale_shift)


PARTS = ResidualBlock, SelfAttention, CrossAttention, FeedForward
"""What the U-Nets are made of."""
KINDS = 1024
"""Compilations of parts that a process may make, for all sizes and lengths of captions; torch's own bound is 8."""


def compile_parts(network: nn.Module) -> None:
    """Compile a network to train, in place, at its first call: each of its parts on its own, without graph breaks.

    Parts of one class and equal sizes share a compilation: the paper's base network has 102 parts of 29 kinds. What is
    between the parts is not compiled; fsdp and checkpointing, which are around blocks, work there. A network without
    such parts is compiled by its own `compile`: as a whole, unless it has another.
    """
    dynamo = torch._dynamo.config
    for bound in ("cache_size_limit", "accumulated_cache_size_limit"):  # the names that every version of torch has
        setattr(dynamo, bound, max(KINDS, getattr(dynamo, bound)))
    parts = [module for module in network.modules() if isinstance(module, PARTS)]
    for part in parts:
        part.compile(dynamic=False, fullgraph=True)
    if not parts:
        network.compile(dynamic=False)


def check_sizes(channels: int, channel_mults: Sequence[int], num_res_blocks: int | Sequence[int]) -> None:
    """ValueError for a U-Net that no machine holds, before a layer is built: 10^9 blocks would take all memory."""
    blocks = [num_res_blocks] if isinstance(num_res_blocks, int) else list(num_res_blocks)
    rows = {"channels": ([channels], 8192), "channel_mults": (channel_mults, 64), "num_res_blocks": (blocks, 256)}
    for name, (values, largest) in rows.items():
        if not 1 <= len(values) <= 16:
            raise ValueError(f"{name} must have 1 to 16 levels, got {len(values)}")
        if wrong := [value for value in values if not isinstance(value, int) or not 1 <= value <= largest]:
            raise ValueError(f"{name} must be from 1 to {largest}, got {wrong[0]}")
