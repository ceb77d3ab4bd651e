"""Attention: one kernel with an explicit bias, and the two blocks built on it.

Shapes: `b` batch, `m` heads, `q` queries (pixels), `k` keys (pixels or tokens), `d` channels a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.denoisers.cast import projections
from ediffi.registry.denoisers.norm import GroupNorm
from ediffi.registry.types import Tensors

PAINTED_SCORES = 1 << 26
"""Scores of painted attention in memory at a time, or those of one head of one image: 256 MB in float32."""


MATMULS = {"cuda"}
"""Devices on which `Pointwise` is a matmul."""


@dataclass(frozen=True)
class PaintedKeys(Tensors):
    """Paint-with-words (eDiff-I, section 4.3) for all keys of a context."""

    areas: Float[Tensor, "b r h w"]  # share of each pixel that a region covers, 0 to 1, at any resolution
    keys: Float[Tensor, "b r k"]  # weight of key k in region r
    strength: Float[Tensor, " b"]  # `w'·log(1+sigma)`; 0 leaves a sample unpainted
    maps: dict[object, Tensor] = field(default_factory=dict)  # what `at` has computed, for the layers of one size

    def at(self, height: int, width: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b q k"]:
        """`A` at the resolution of a layer.

        Bilinear, and antialiased (our choice), so that a thin stroke does not fall between the pixels of a small layer.
        Where regions overlap, a key that is in several takes the largest value.
        """
        key = height, width, dtype
        if key not in self.maps:
            areas = F.interpolate(self.areas, (height, width), mode="bilinear", antialias=True).flatten(2)
            regions = [areas[:, r, :, None] * self.keys[:, r, None] for r in range(areas.shape[1])]
            self.maps[key] = reduce(torch.maximum, regions).to(dtype)
        return self.maps[key]


@dataclass(frozen=True)
class Context(Tensors):
    """The keys and values of cross-attention."""

    tokens: Float[Tensor, "b k width"] | Mapping[str, Float[Tensor, "b _ _"]]
    """The learned null token and the tokens of all sources, in one width; or those of each source, in its own."""
    bias: Float[Tensor, "b 1 1 k"] | None
    """Added to the scores: log of a token's weight (0 for weight 1), -inf for padding. The null token is the first.
    None where it is known that no token is masked or weighted."""
    paint: PaintedKeys | None = None
    projected: Float[Tensor, "b k out"] | Mapping[str, Float[Tensor, "b _ out"]] | None = None
    """What the `to_kv` of one layer makes of `tokens`, where it is known already."""


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
    bias: Float[Tensor, "b 1 1 k"] | None,
    paint: PaintedKeys,
    size: tuple[int, int],
) -> Float[Tensor, "b m q e"]:
    """`softmax((QKᵀ + w·A)/√d + bias)·V` with `w = strength·max(QKᵀ)` (eDiff-I, section 4.3).

    Our choice: the maximum is taken over the pixels and real tokens of one image and one head, so that neither the rest
    of the batch nor padding matter, and each head keeps its scale. So scores are computed once, for as many images and
    heads at a time as make at most `PAINTED_SCORES` of them. `size` is height and width of the layer.
    """
    areas, out = paint.at(*size, q.dtype)[:, None], q.new_empty(*q.shape[:3], v.shape[3])
    each = q.shape[2] * k.shape[2]  # scores of a head
    images, heads = (max(1, PAINTED_SCORES // (count * each)) for count in (q.shape[1], 1))
    for i in range(0, q.shape[0], images):
        row = slice(i, i + images)
        hidden = None if bias is None else bias[row]
        for j in range(0, q.shape[1], heads):
            at = row, slice(j, j + heads)
            out[at] = _attend_painted(q[at], k[at], v[at], hidden, areas[row], paint.strength[row])
    return out


def _attend_painted(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, areas: Tensor, strength: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    largest = scores.amax(2, keepdim=True)  # of each key
    if bias is not None:
        largest = largest.masked_fill(bias.isneginf(), -torch.inf)
    w = strength.to(scores.dtype).view(-1, 1, 1, 1) * largest.amax(3, keepdim=True)
    scores.addcmul_(w, areas)
    if bias is not None:
        scores.add_(bias.to(scores.dtype))
    return scores.softmax(-1, dtype=scores.dtype) @ v  # the dtype: autocast would write float32


def _check_heads(channels: int, head_channels: int) -> int:
    """`head_channels`; ValueError if no whole number of heads has `channels`."""
    if head_channels < 1 or channels % head_channels:
        raise ValueError(f"attention over {channels} channels has no whole heads of head_channels {head_channels}")
    return head_channels


def _pixels_to_heads(x: Float[Tensor, "b c h w"], head_channels: int) -> Float[Tensor, "b m q d"]:
    return x.flatten(2).transpose(1, 2).unflatten(-1, (-1, head_channels)).transpose(1, 2)


def _heads_to_pixels(x: Float[Tensor, "b m q d"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    return x.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(-1, (height, width))


class Pointwise(nn.Conv2d):
    """A 1x1 convolution. On CUDA it is the matmul that it amounts to in channels-last, whose kernel adds the bias too.

    On a CPU a convolution is faster (benchmarks/README.md).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any = 1, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)  # a LoRA adapter makes its own of it

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out h w"]:
        """Features [b, out_channels, h, w]."""
        if x.device.type not in MATMULS:
            return super().forward(x)
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    """Residual attention of every pixel to every pixel of its image (ADM, Dhariwal & Nichol 2021)."""

    def __init__(self, channels: int, head_channels: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.head_channels = _check_heads(channels, head_channels)
        self.norm = GroupNorm(norm_groups, channels)
        self.to_qkv = Pointwise(channels, 3 * channels)
        self.out = zeroed(Pointwise(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        q, k, v = (_pixels_to_heads(part, self.head_channels) for part in self.to_qkv(self.norm(x)).chunk(3, dim=1))
        return x + self.out(_heads_to_pixels(attend(q, k, v), *x.shape[-2:]))


class OwnWidths(nn.Module):
    """Keys and values straight from the tokens of each source, and of a null token that the layer learns."""

    def __init__(self, widths: Mapping[str, int], out: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(1, 1, out))  # tokens are normed, so their keys have about this deviation
        self.sources = nn.ModuleDict({name: nn.Linear(width, out) for name, width in widths.items()})

    def forward(self, context: Context) -> Float[Tensor, "b k out"]:
        """Those of the null token, then of the tokens in the context's order."""
        assert isinstance(context.tokens, Mapping)
        like = next(iter(context.tokens.values()), context.bias)
        assert like is not None  # without tokens there is a bias, that of the null token
        null = self.null.to(like.dtype).expand(len(like), -1, -1)
        known = context.projected
        if not isinstance(known, Mapping):
            known = {name: self.sources[name](tokens) for name, tokens in context.tokens.items()}
        return torch.cat([null, *known.values()], dim=1)


class CrossAttention(nn.Module):
    """Residual attention of every pixel to the tokens of the context (eDiff-I, section 4.1: after self-attention).

    `widths` is the common width of the tokens, or the width of each source's.
    """

    def __init__(
        self, channels: int, widths: int | Mapping[str, int], head_channels: int, norm_groups: int = 32
    ) -> None:
        super().__init__()
        self.head_channels = _check_heads(channels, head_channels)
        self.norm = GroupNorm(norm_groups, channels)
        self.to_q = Pointwise(channels, channels)
        self.to_kv = nn.Linear(widths, 2 * channels) if isinstance(widths, int) else OwnWidths(widths, 2 * channels)
        self.out = zeroed(Pointwise(channels, channels))

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
        # tokens are not normed here: `ConditionEmbedding` has normed those of each source
        if isinstance(self.to_kv, OwnWidths):
            projected = self.to_kv(context)
        else:
            projected = self.to_kv(context.tokens) if context.projected is None else context.projected
        k, v = (part.unflatten(-1, (-1, self.head_channels)).transpose(1, 2) for part in projected.chunk(2, dim=-1))
        return q, k, v


def keys_values(
    layers: Sequence[CrossAttention], context: Context
) -> Sequence[Float[Tensor, "b k _"] | Mapping[str, Tensor] | None]:
    """`Context.projected` for each of these layers, by one matmul for the tokens of a source, as `projections` can."""
    if not isinstance(context.tokens, Mapping):
        return projections([layer.to_kv for layer in layers], context.tokens)
    own: Sequence[Any] = [layer.to_kv for layer in layers]
    found = {n: projections([each.sources[n] for each in own], tokens) for n, tokens in context.tokens.items()}
    each_layer = [{name: each[i] for name, each in found.items()} for i in range(len(layers))]
    return [None if any(known is None for known in each.values()) else each for each in each_layer]  # type: ignore[misc]


class FeedForward(nn.Module):
    """Residual perceptron of each pixel, `mult` times as wide as its input (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, channels: int, mult: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.norm = GroupNorm(norm_groups, channels)
        self.inner = Pointwise(channels, mult * channels)
        self.out = zeroed(Pointwise(mult * channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        return x + self.out(F.gelu(self.inner(self.norm(x))))


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Zero the last layer of a residual branch, so that the block starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
