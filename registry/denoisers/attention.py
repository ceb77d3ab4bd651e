"""Attention: one kernel with an explicit bias, and the two blocks built on it.

Shapes: `b` batch, `m` heads, `q` queries (pixels), `k` keys (pixels or tokens), `d` channels a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.types import Tensors


@dataclass(frozen=True)
class PaintedKeys(Tensors):
    """Paint-with-words (eDiff-I, section 4.3) for all keys of a context."""

    areas: Float[Tensor, "b r h w"]  # share of each pixel that a region covers, 0 to 1, at any resolution
    keys: Float[Tensor, "b r k"]  # weight of key k in region r
    strength: Float[Tensor, " b"]  # `w'·log(1+sigma)`; 0 leaves a sample unpainted

    def at(self, height: int, width: int, row: int) -> Float[Tensor, "q k"]:
        """`A` of sample `row` at the resolution of a layer.

        Bilinear, and antialiased (our choice), so that a thin stroke does not fall between the pixels of a small layer.
        Where regions overlap, a key that is in several takes the largest value.
        """
        areas = F.interpolate(self.areas[row, None], (height, width), mode="bilinear", antialias=True)[0].flatten(1)
        return (areas[:, :, None] * self.keys[row, :, None]).amax(0)


@dataclass(frozen=True)
class Context(Tensors):
    """The keys and values of cross-attention."""

    tokens: Float[Tensor, "b k width"]  # the learned null token and the tokens of all sources, in one width
    bias: Float[Tensor, "b 1 1 k"]  # added to the scores: log of a token's weight (0 for weight 1), -inf for padding
    paint: PaintedKeys | None = None


def attend(
    q: Float[Tensor, "b m q d"],
    k: Float[Tensor, "b m k d"],
    v: Float[Tensor, "b m k e"],
    bias: Float[Tensor, "#b #m #q k"] | None = None,
) -> Float[Tensor, "b m q e"]:
    """`softmax(QKᵀ/√d + bias)·V`.

    By `scaled_dot_product_attention`, except for bfloat16 on a CPU, where the three plain steps train faster and sample
    about as fast (benchmarks/attention_kernel.py).
    """
    bias = None if bias is None else bias.to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (scores if bias is None else scores + bias).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attend_painted(
    q: Float[Tensor, "b m q d"],
    k: Float[Tensor, "b m k d"],
    v: Float[Tensor, "b m k e"],
    bias: Float[Tensor, "b 1 1 k"],
    paint: PaintedKeys,
    size: tuple[int, int],
) -> Float[Tensor, "b m q e"]:
    """`softmax((QKᵀ + w·A)/√d + bias)·V` with `w = strength·max(QKᵀ)` (eDiff-I, section 4.3).

    Our choice: the maximum is taken over the pixels and real tokens of one image and one head, so that neither the rest
    of the batch nor padding matter, and each head keeps its scale. Scores are computed once and changed in place, a
    sample at a time; samples without paint go through `attend`. `size` is height and width of the layer.
    """
    out, plain = q.new_empty(*q.shape[:3], v.shape[3]), paint.strength == 0
    if plain.any():
        out[plain] = attend(q[plain], k[plain], v[plain], bias[plain])
    for row in (~plain).nonzero().flatten().tolist():
        scores = q[row] @ k[row].transpose(-2, -1)
        largest = scores.masked_fill(bias[row].isneginf(), -torch.inf).amax((1, 2), keepdim=True)
        wanted = paint.at(*size, row).to(scores.dtype) * paint.strength[row].to(scores.dtype)
        scores.addcmul_(largest, wanted.expand_as(scores))
        out[row] = scores.mul_(q.shape[-1] ** -0.5).add_(bias[row].to(scores.dtype)).softmax(-1) @ v[row]
    return out


def _pixels_to_heads(x: Float[Tensor, "b c h w"], head_channels: int) -> Float[Tensor, "b m q d"]:
    return x.flatten(2).transpose(1, 2).unflatten(-1, (-1, head_channels)).transpose(1, 2)


def _heads_to_pixels(x: Float[Tensor, "b m q d"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    return x.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(-1, (height, width))


class SelfAttention(nn.Module):
    """Residual attention of every pixel to every pixel of its image (ADM, Dhariwal & Nichol 2021)."""

    def __init__(self, channels: int, head_channels: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        q, k, v = (_pixels_to_heads(part, self.head_channels) for part in self.to_qkv(self.norm(x)).chunk(3, dim=1))
        return x + self.out(_heads_to_pixels(attend(q, k, v), *x.shape[-2:]))


class CrossAttention(nn.Module):
    """Residual attention of every pixel to the tokens of the context (eDiff-I, section 4.1: after self-attention)."""

    def __init__(self, channels: int, context_width: int, head_channels: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.to_q = nn.Conv2d(channels, channels, 1)
        self.to_kv = nn.Linear(context_width, 2 * channels)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        q, k, v = self._project(x, context)
        return x + self.out(_heads_to_pixels(self._attend(q, k, v, context, x), *x.shape[-2:]))

    def probabilities(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b m q k"]:
        """The attention of each pixel to each token, for attention maps; sums to 1 over `k`."""
        q, k, _ = self._project(x, context)
        # with the identity as values, the output is the probabilities, by the same code that attends
        every = torch.eye(k.shape[2], dtype=q.dtype, device=q.device).expand(*k.shape[:2], -1, -1)
        return self._attend(q, k, every, context, x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: Context, x: Tensor) -> Tensor:
        if context.paint is None:
            return attend(q, k, v, context.bias)
        return attend_painted(q, k, v, context.bias, context.paint, (x.shape[-2], x.shape[-1]))

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        q = _pixels_to_heads(self.to_q(self.norm(x)), self.head_channels)
        # tokens are not normed here: each source's projection ends in a layer norm
        k, v = self.to_kv(context.tokens).unflatten(-1, (2, -1, self.head_channels)).permute(2, 0, 3, 1, 4)
        return q, k, v


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Zero the last layer of a residual branch, so that the block starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
