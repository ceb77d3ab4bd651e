"""Attention: one kernel with an explicit bias, and the two blocks built on it.

Shapes: `b` batch, `m` heads, `q` queries (pixels), `k` keys (pixels or tokens), `d` channels a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Context:
    """What cross-attention attends to.

    Attributes:
        tokens: [b, k, width] text tokens, picture token and the learned null token, in one common width.
        bias: [b, 1, 1, k] added to the scores: 0 for a real token, -inf for padding.
    """

    tokens: Float[Tensor, "b k width"]
    bias: Float[Tensor, "b 1 1 k"]


def attend(
    q: Float[Tensor, "b m q d"],
    k: Float[Tensor, "b m k d"],
    v: Float[Tensor, "b m k d"],
    bias: Float[Tensor, "#b #m #q k"] | None = None,
) -> Float[Tensor, "b m q d"]:
    """`softmax(QKᵀ/√d + bias)·V`.

    Goes through `scaled_dot_product_attention`, except for bfloat16 on a CPU, where the three plain steps train faster
    and paint about as fast (benchmarks/attention_kernel.py).
    """
    bias = None if bias is None else bias.to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (scores if bias is None else scores + bias).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _pixels_to_heads(x: Float[Tensor, "b c h w"], head_channels: int) -> Float[Tensor, "b m q d"]:
    return x.flatten(2).transpose(1, 2).unflatten(-1, (-1, head_channels)).transpose(1, 2)


def _heads_to_pixels(x: Float[Tensor, "b m q d"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    return x.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(-1, (height, width))


class SelfAttention(nn.Module):
    """Every pixel attends to every pixel of its picture, as in ADM (Dhariwal & Nichol 2021), residual.

    Args:
        channels: channels of the picture.
        head_channels: channels a head; divides `channels`.
        norm_groups: groups of the group norm.
    """

    def __init__(self, channels: int, head_channels: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The picture, with what each pixel gathered added."""
        q, k, v = (_pixels_to_heads(part, self.head_channels) for part in self.to_qkv(self.norm(x)).chunk(3, dim=1))
        return x + self.out(_heads_to_pixels(attend(q, k, v), *x.shape[-2:]))


class CrossAttention(nn.Module):
    """Every pixel attends to the tokens of the context, residual (eDiff-I, section 4.1: after every self-attention).

    Args:
        channels: channels of the picture.
        context_width: width of the context's tokens.
        head_channels: channels a head; divides `channels`.
        norm_groups: groups of the group norm.
    """

    def __init__(self, channels: int, context_width: int, head_channels: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.to_q = nn.Conv2d(channels, channels, 1)
        self.to_kv = nn.Linear(context_width, 2 * channels)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:
        """The picture, with what each pixel gathered from the tokens added."""
        q = _pixels_to_heads(self.to_q(self.norm(x)), self.head_channels)
        k, v = self.to_kv(context.tokens).unflatten(-1, (2, -1, self.head_channels)).permute(2, 0, 3, 1, 4)
        return x + self.out(_heads_to_pixels(attend(q, k, v, context.bias), *x.shape[-2:]))


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with zero weights: a residual branch that starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
