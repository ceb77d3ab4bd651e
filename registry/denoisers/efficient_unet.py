"""The Efficient U-Net (Imagen, Saharia et al. 2022, arXiv 2205.11487, appendix B): the super-resolution stages."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.denoisers.attention import zeroed
from ediffi.registry.denoisers.cast import autocast_weights, call
from ediffi.registry.denoisers.conditioning import ConditionEmbedding
from ediffi.registry.denoisers.layers import Block, block_inputs, doubled, run
from ediffi.registry.denoisers.norm import GroupNorm
from ediffi.registry.denoisers.precondition import upsample
from ediffi.registry.types import Conditioning


class EfficientUNet(nn.Module):
    """`F(x; c_noise, cond)`: a U-Net whose blocks sit where pixels are few.

    Against ADM: more residual blocks at the coarse levels, a strided convolution *before* the blocks on the way down, a
    convolution and upsampling *after* them on the way up, and one skip a level, scaled by 1/√2. The upsampled
    low-resolution image enters beside the noisy one.

    Our choice where the paper is silent: level `i` works at `1/2^i` of the output, so that the paper's four levels of a
    256² image end at 32², the resolution its table names for attention.

    `embedding` builds the global embedding and the cross-attention context. Encoder and decoder each have
    `num_res_blocks`; the last block of a level attends. Other arguments: `ediffi.registry.denoisers.efficient_sr256`.
    """

    def __init__(
        self,
        embedding: ConditionEmbedding,
        channels: int,
        channel_mults: Sequence[int],
        num_res_blocks: Sequence[int],
        self_attention_levels: Sequence[int],
        cross_attention_levels: Sequence[int],
        head_channels: int,
        norm_groups: int,
        patch_size: int,
        feed_forward: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        if len(channel_mults) != len(num_res_blocks):
            raise ValueError(f"num_res_blocks {num_res_blocks} and channel_mults {channel_mults} must be equally long")
        self.embedding = embedding
        self.patch_size = patch_size
        self.gradient_checkpointing = gradient_checkpointing

        def level_blocks(level: int, channels_in: int, takes_skip: bool) -> nn.ModuleList:
            blocks, width, last = nn.ModuleList(), widths[level], num_res_blocks[level] - 1
            for i in range(last + 1):
                attention = i == last and level in self_attention_levels, i == last and level in cross_attention_levels
                sizes = channels_in if i == 0 else width, width, embedding, head_channels, norm_groups
                blocks.append(Block(*sizes, *attention, feed_forward, takes_skip=takes_skip and i == 0))
            return blocks

        widths = [channels * mult for mult in channel_mults]
        levels = range(len(widths))
        self.stem = nn.Conv2d(6 * patch_size**2, widths[0], 3, padding=1)
        self.halving = nn.ModuleList(nn.Conv2d(widths[i - 1], widths[i], 3, 2, padding=1) for i in levels[1:])
        self.down = nn.ModuleList(level_blocks(i, widths[i], takes_skip=False) for i in levels)
        self.up = nn.ModuleList(level_blocks(i, 2 * widths[i], takes_skip=True) for i in levels)
        self.doubling = nn.ModuleList(nn.Conv2d(widths[i], widths[i - 1], 3, padding=1) for i in levels[1:])
        self.norm = GroupNorm(norm_groups, widths[0])
        self.out = zeroed(nn.Conv2d(widths[0], 3 * patch_size**2, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b 3 h w"], c_noise: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """The raw output [b, 3, h, w]; h and w are multiples of `patch_size·2^(levels-1)`."""
        if cond.low_res is None:
            raise ValueError("a super-resolution denoiser needs cond.low_res, and it is None")
        low_res = upsample(cond.low_res, (x.shape[-2], x.shape[-1])).to(x.dtype)
        embedding, context = call(self.embedding, autocast_weights(self.embedding), c_noise, cond)
        rest = embedding, self.gradient_checkpointing
        levels = [*self.down, *(self.up[i] for i in reversed(range(len(self.up))))]  # in the order of use
        every = [block for level in levels for block in level.children()]
        inputs = block_inputs(every, embedding, context, self.gradient_checkpointing)
        h = F.pixel_unshuffle(torch.cat([x, low_res], dim=1), self.patch_size)
        h = self.stem(h.contiguous(memory_format=torch.channels_last))
        skips = []
        for level, blocks in enumerate(self.down):
            h = h if level == 0 else self.halving[level - 1](h)
            for block in blocks.children():
                h = run(block, h, *next(inputs), *rest)
            skips.append(h)
        for level in reversed(range(len(self.up))):
            h = torch.cat([h, skips.pop() / math.sqrt(2)], dim=1)  # Imagen scales its skips for faster convergence
            for block in self.up[level].children():
                h = run(block, h, *next(inputs), *rest)
            h = h if level == 0 else doubled(self.doubling[level - 1](h))
        return F.pixel_shuffle(self.out(self.norm(h, silu=True)), self.patch_size)
