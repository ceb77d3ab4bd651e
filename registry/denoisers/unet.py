"""The ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233) with text: the base stage of eDiff-I."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.denoisers.attention import zeroed
from ediffi.registry.denoisers.cast import autocast_weights, call
from ediffi.registry.denoisers.conditioning import ConditionEmbedding
from ediffi.registry.denoisers.layers import Block, block_inputs, run
from ediffi.registry.denoisers.norm import GroupNorm
from ediffi.registry.types import Conditioning


class UNet(nn.Module):
    """`F(x; c_noise, cond)`: residual blocks at halving resolutions, skips across, attention at the coarse levels.

    Level `i` works at `1/2^i` of the input's resolution, after its pixels are folded into channels by `patch_size`.
    Resolution changes inside residual blocks, as in ADM. The paper's "attention at 32, 16, 8" for 64² images is
    `attention_levels=(1, 2, 3)`.

    `embedding` builds the global embedding and the cross-attention context. The decoder has one residual block a level
    more than the encoder; the middle always has attention. Other arguments: `ediffi.registry.denoisers.unet_base64`.
    """

    def __init__(
        self,
        embedding: ConditionEmbedding,
        channels: int,
        channel_mults: Sequence[int],
        num_res_blocks: int,
        attention_levels: Sequence[int],
        head_channels: int,
        norm_groups: int,
        dropout: float,
        patch_size: int,
        feed_forward: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        if unknown := [level for level in attention_levels if level not in range(len(channel_mults))]:
            raise ValueError(f"attention_levels has {unknown[0]}; levels are 0 to {len(channel_mults) - 1}")
        self.embedding = embedding
        self.patch_size = patch_size
        self.gradient_checkpointing = gradient_checkpointing

        def block(channels_in: int, channels_out: int, attention: bool = False, **rest: Any) -> Block:
            sizes = channels_in, channels_out, embedding, head_channels, norm_groups
            return Block(*sizes, attention, attention, feed_forward, dropout=dropout, **rest)

        widths = [channels * mult for mult in channel_mults]
        self.stem = nn.Conv2d(3 * patch_size**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, level_width in enumerate(widths):
            if level > 0:
                self.down.append(block(width, width, how="down"))
                skips.append(width)
            for _ in range(num_res_blocks):
                self.down.append(block(width, level_width, level in attention_levels))
                width = level_width
                skips.append(width)
        self.middle = nn.ModuleList([block(width, width, attention=True), block(width, width)])
        for level, level_width in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks + 1):
                self.up.append(block(width + skips.pop(), level_width, level in attention_levels, takes_skip=True))
                width = level_width
            if level > 0:
                self.up.append(block(width, width, how="up"))
        self.norm = GroupNorm(norm_groups, width)
        self.out = zeroed(nn.Conv2d(width, 3 * patch_size**2, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b 3 h w"], c_noise: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """The raw output [b, 3, h, w]; h and w are multiples of `patch_size·2^(levels-1)`."""
        embedding, context = call(self.embedding, autocast_weights(self.embedding), c_noise, cond)
        rest = embedding, self.gradient_checkpointing
        inputs = block_inputs([*self.down, *self.middle, *self.up], embedding, context, self.gradient_checkpointing)
        h = F.pixel_unshuffle(x, self.patch_size)
        h = self.stem(h.contiguous(memory_format=torch.channels_last))  # convolutions are faster in this layout
        skips = [h]
        for block in self.down:
            h = run(block, h, *next(inputs), *rest)
            skips.append(h)
        for block in self.middle:
            h = run(block, h, *next(inputs), *rest)
        for block in self.up:
            h = torch.cat([h, skips.pop()], dim=1) if block.takes_skip else h
            h = run(block, h, *next(inputs), *rest)
        return F.pixel_shuffle(self.out(self.norm(h, silu=True)), self.patch_size)
