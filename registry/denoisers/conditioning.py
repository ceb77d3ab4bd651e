"""From a `Conditioning` to the inputs of the layers: a global embedding, and a context for cross-attention."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.denoisers.attention import Context, PaintedKeys
from ediffi.registry.types import Conditioning, Embedding


class FourierFeatures(nn.Module):
    """`[cos(2π f t), sin(2π f t)]` for log-spaced frequencies f from 1/8 to 8.

    Our choice of range: `t = ln(sigma)/4` spans about [-1.6, 1.1], so the slowest wave tells its ends apart and the
    fastest resolves a factor 1.4 in sigma.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Features [b, width] of the numbers `t` [b]."""
        frequencies = torch.logspace(-3, 3, self.width // 2, base=2.0, device=t.device, dtype=t.dtype)
        angles = 2 * math.pi * t[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _level(width: int) -> nn.Sequential:
    return nn.Sequential(FourierFeatures(width // 4), nn.Linear(width // 4, width), nn.SiLU())


class ConditionEmbedding(nn.Module):
    """A denoiser's declaration of which source feeds what (eDiff-I, section 4.1 and figure 5).

    Global path: noise level, pooled embeddings and, in super-resolution, `aug_level`, each projected and summed; the
    blocks read it through scale-shift norm. Cross-attention: the tokens of each source projected to one width,
    concatenated in the order declared, and one learned null token to attend to when no text is needed; or, without
    `context_width`, the tokens normed only, which each layer projects, beside a null token of its own. A declared
    source that the conditioning lacks counts as dropped.

    Args:
        width: width of the global embedding.
        context_width: common width of the cross-attention tokens; None to leave them as wide as they are.
        tokens: width of the tokens of each source that feeds cross-attention.
        pooled: width of the pooled embedding of each source that feeds the global path.
        normalize_pooled: scale each pooled embedding to a mean square of 1 before its projection. CLIP's have unit
            length, so that without it they enter at `1/sqrt(d)` of the scale of the other terms. A dropped one stays 0.
        super_resolution: whether `cond.aug_level` is an input.
    """

    def __init__(
        self,
        width: int,
        context_width: int | None,
        tokens: Mapping[str, int],
        pooled: Mapping[str, int],
        normalize_pooled: bool = False,
        super_resolution: bool = False,
    ) -> None:
        super().__init__()
        if context_width is not None and context_width < 1:
            raise ValueError(f"context_width must be at least 1, or None, got {context_width}")
        self.width, self.context_width, self.normalize_pooled = width, context_width, normalize_pooled
        self.token_widths, self.pooled_widths = dict(tokens), dict(pooled)
        self.noise = _level(width)
        self.augmentation = _level(width) if super_resolution else None
        self.pooled = nn.ModuleDict({name: nn.Linear(size, width) for name, size in pooled.items()})
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        if context_width is None:
            self.tokens = nn.ModuleDict({name: nn.LayerNorm(size) for name, size in tokens.items()})
            return
        projections = {n: (nn.Linear(size, context_width), nn.LayerNorm(context_width)) for n, size in tokens.items()}
        self.tokens = nn.ModuleDict({name: nn.Sequential(*layers) for name, layers in projections.items()})
        self.null_token = nn.Parameter(torch.randn(1, 1, context_width) * context_width**-0.5)

    def forward(self, c_noise: Float[Tensor, " b"], cond: Conditioning) -> tuple[Float[Tensor, "b width"], Context]:
        """The global embedding [b, width] and the context; ValueError where `cond` lacks an input."""
        embedding = self.noise(c_noise)
        if self.augmentation is not None:
            if cond.aug_level is None:
                raise ValueError("a super-resolution denoiser needs cond.aug_level, and it is None")
            embedding = embedding + self.augmentation(cond.aug_level.clamp(min=1e-3).log() / 4)  # 0 has no logarithm
        for name, project in self.pooled.items():
            # a dropped source is zeros through its projection, so that its bias is there with and without text
            pooled = embedding.new_zeros(len(embedding), self.pooled_widths[name])
            if name in cond.sources:
                pooled = cond.sources[name].pooled
            if pooled is None:
                raise ValueError(f"source {name!r} feeds the global path, but its encoder gives no pooled embedding")
            if self.normalize_pooled:
                pooled = F.rms_norm(pooled, pooled.shape[-1:], eps=1e-8)
            embedding = embedding + project(pooled)
        embedding = self.mix(embedding)
        return embedding, self._context(cond, embedding)

    def _context(self, cond: Conditioning, embedding: Float[Tensor, "b width"]) -> Context:
        """Keys and biases in the dtype that the layers compute in, so that not every layer casts them."""
        batch, dtype = len(embedding), embedding.dtype
        present = {name: cond.sources[name] for name in self.tokens if name in cond.sources}
        tokens = {name: self.tokens[name](source.tokens).to(dtype) for name, source in present.items()}
        paint = None
        if cond.paint is not None:  # its tokens in the order of the keys: the null token, then the sources
            none = cond.paint.areas.new_zeros(*cond.paint.areas.shape[:2], 1)
            keys = [cond.paint.tokens.get(n, none.expand(-1, -1, x.tokens.shape[1])) for n, x in present.items()]
            paint = PaintedKeys(cond.paint.areas, torch.cat([none, *keys], dim=2), cond.paint.strength)
        bias = None
        if not present or not all(source.neutral for source in present.values()):
            biases = [embedding.new_zeros(batch, 1), *(_bias(source).to(dtype) for source in present.values())]
            bias = torch.cat(biases, dim=1)[:, None, None]
        if self.context_width is None:
            return Context(tokens, bias, paint)
        first = self.null_token.to(dtype).expand(batch, -1, -1)
        return Context(torch.cat([first, *tokens.values()], dim=1), bias, paint)


def _bias(source: Embedding) -> Float[Tensor, "b n"]:
    """Bias of the scaled scores: `log(weight)` makes a token count as `weight` tokens; weight 0 or padding hides it.

    Our choice for weighted words: the projection of the tokens ends in a layer norm, which would undo any scaling.
    """
    weight = source.mask if source.weight is None else source.weight * source.mask
    return weight.to(source.tokens.dtype).log()


def widths(network: nn.Module) -> dict[str, dict[str, int]]:
    """By source, "width" of the tokens and "pooled_width" that a network, or a module around it, reads."""
    found: dict[str, dict[str, int]] = {}
    for module in network.modules():
        if isinstance(module, ConditionEmbedding):
            for what, sizes in (("width", module.token_widths), ("pooled_width", module.pooled_widths)):
                for source, size in sizes.items():
                    found.setdefault(source, {})[what] = size
    return found
