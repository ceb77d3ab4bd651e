"""The residual block both U-Nets are made of, with the attention that may follow it."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.denoisers.attention import Context, CrossAttention, SelfAttention, zeroed

Resample = Literal["down", "up"]


def resample(x: Float[Tensor, "b c h w"], how: Resample | None) -> Float[Tensor, "b c H W"]:
    """Halve by averaging, double by repeating, or leave the resolution."""
    if how == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if how == "up" else x


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice; the second norm is scaled and shifted by the global embedding (ADM).

    Args:
        in_channels: channels in.
        out_channels: channels out.
        embedding_width: width of the global embedding.
        how: change the resolution inside the block, on both branches.
        dropout: probability before the second convolution.
        norm_groups: groups of the group norms.
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
        self.norm1 = nn.GroupNorm(norm_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(embedding_width, 2 * out_channels)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b width"]) -> Float[Tensor, "b out H W"]:
        """The picture after the block, at the resolution the block leaves it in."""
        h = self.conv1(resample(F.silu(self.norm1(x)), self.how))
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        return self.skip(resample(x, self.how)) + self.conv2(self.dropout(h))


class Block(nn.Module):
    """A residual block; where its level attends, self-attention follows, and then cross-attention.

    Args:
        residual: the residual block.
        self_attention: or None.
        cross_attention: or None.
        takes_skip: whether the decoder concatenates an encoder's output to the input of this block.
    """

    def __init__(
        self,
        residual: ResidualBlock,
        self_attention: SelfAttention | None = None,
        cross_attention: CrossAttention | None = None,
        takes_skip: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.takes_skip = takes_skip

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b width"], context: Context
    ) -> Float[Tensor, "b out H W"]:
        """The picture after the block."""
        x = self.residual(x, embedding)
        if self.self_attention is not None:
            x = self.self_attention(x)
        return x if self.cross_attention is None else self.cross_attention(x, context)
