"""The three contracts every part meets at, and the glossary of shapes.

Glossary: `b` batch, `c` channels, `h w` height and width, `n` tokens, `d` embedding width.
`sigma` [b] noise standard deviation; `sigmas` [s] the decreasing grid of a sampler, ending in 0; `x` [b,3,h,w] a noisy
picture; `images` clean pictures in [-1, 1]; `denoised` an estimate of the clean picture; `cond` a `Conditioning`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """What one encoder says of a batch.

    Attributes:
        tokens: [b, n, d] one vector a token.
        mask: [b, n] True where a token is real, False where it is padding.
        pooled: [b, p] one vector for the whole input, or None where the encoder has none (T5).
        weight: [b, n] how much of the attention a token gets, in multiples of its usual share; None is 1 for all.
    """

    tokens: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]
    pooled: Float[Tensor, "b p"] | None = None
    weight: Float[Tensor, "b n"] | None = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> "Embedding":
        """The embedding with `function` applied to each of its tensors."""
        return Embedding(
            function(self.tokens), function(self.mask), _maybe(function, self.pooled), _maybe(function, self.weight)
        )

    def drop(self, dropped: Bool[Tensor, " b"]) -> "Embedding":
        """Zero the whole embedding of each sample where `dropped` (eDiff-I, section 4.2).

        Our choice: the mask is zeroed too, so that a dropped caption says nothing, not even its length, and the learned
        null token takes the attention.
        """

        def zero(tensor: Tensor) -> Tensor:
            return tensor.masked_fill(dropped.view(-1, *[1] * (tensor.ndim - 1)), 0)

        return self.apply(zero)

    @staticmethod
    def cat(parts: "list[Embedding]") -> "Embedding":
        """Stack embeddings along the batch, padding the shorter ones with masked zeros."""
        length = max(part.tokens.shape[1] for part in parts)

        def join(tensors: list[Tensor]) -> Tensor:
            return torch.cat([pad_to(tensor, length, dim=1) for tensor in tensors])

        has_pooled = parts[0].pooled is not None
        pooled = torch.cat([part.pooled for part in parts if part.pooled is not None]) if has_pooled else None
        weight = None
        if any(part.weight is not None for part in parts):
            weight = join([torch.ones_like(p.tokens[..., 0]) if p.weight is None else p.weight for p in parts])
        return Embedding(join([part.tokens for part in parts]), join([part.mask for part in parts]), pooled, weight)


@dataclass(frozen=True)
class Paint:
    """Where the words of a batch belong: areas of the picture, and the tokens that are drawn to them.

    Attributes:
        areas: [b, r, h, w] how much of each pixel a region covers, 0 to 1; any resolution, layers take their own.
        tokens: [b, r, n] by source: the weight of token n in region r, 0 where it does not belong there.
        strength: [b] `w` without the scale of the scores: `w'·log(1+sigma)` once a noise level is known, before that
            `w'`; 0 leaves a sample unpainted.
    """

    areas: Float[Tensor, "b r h w"]
    tokens: Mapping[str, Float[Tensor, "b r n"]]
    strength: Float[Tensor, " b"]

    def apply(self, function: Callable[[Tensor], Tensor]) -> "Paint":
        """The paint with `function` applied to each of its tensors."""
        tokens = {name: function(tensor) for name, tensor in self.tokens.items()}
        return Paint(function(self.areas), tokens, function(self.strength))

    @staticmethod
    def cat(parts: "list[tuple[Paint | None, int]]", lengths: Mapping[str, int]) -> "Paint | None":
        """Stack along the batch, tokens padded to `lengths`; a part without paint, with its size, has strength 0."""
        present = [paint for paint, _ in parts if paint is not None]
        if not present:
            return None
        like = present[0]
        regions = max(paint.areas.shape[1] for paint in present)

        def rows(paint: "Paint | None", batch: int) -> "Paint":
            if paint is None:
                paint = like.apply(lambda tensor: tensor.new_zeros(batch, *tensor.shape[1:]))
            tokens = {n: pad_to(pad_to(t, lengths[n], dim=2), regions, dim=1) for n, t in paint.tokens.items()}
            return Paint(pad_to(paint.areas, regions, dim=1), tokens, paint.strength)

        padded = [rows(paint, batch) for paint, batch in parts]
        return Paint(
            torch.cat([paint.areas for paint in padded]),
            {name: torch.cat([paint.tokens[name] for paint in padded]) for name in like.tokens},
            torch.cat([paint.strength for paint in padded]),
        )


@dataclass(frozen=True)
class Conditioning:
    """Everything a denoiser is told besides the noisy picture; one value from the encoders to the last layer.

    Attributes:
        sources: one `Embedding` per source, by name: "t5", "clip_text", "clip_image" or a plug-in's own.
        low_res: [b, 3, h', w'] the picture to super-resolve, [-1, 1] plus augmentation noise; None in the base stage.
        aug_level: [b] standard deviation of the noise that was added to `low_res`; None in the base stage.
        paint: where words belong in the picture; None for anywhere.
    """

    sources: Mapping[str, Embedding] = field(default_factory=dict)
    low_res: Float[Tensor, "b 3 h w"] | None = None
    aug_level: Float[Tensor, " b"] | None = None
    paint: Paint | None = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> "Conditioning":
        """The conditioning with `function` applied to each of its tensors."""
        sources = {name: embedding.apply(function) for name, embedding in self.sources.items()}
        paint = None if self.paint is None else self.paint.apply(function)
        return Conditioning(sources, _maybe(function, self.low_res), _maybe(function, self.aug_level), paint)

    def to(self, *args: Any, **kwargs: Any) -> "Conditioning":
        """Move to a device or a floating dtype, as `Tensor.to`; masks stay boolean."""

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(*args, **kwargs)
            return moved if tensor.is_floating_point() else moved.to(tensor.dtype)

        return self.apply(move)

    def __getitem__(self, index: "slice | Int[Tensor, ' k'] | Bool[Tensor, ' b']") -> "Conditioning":
        """The conditioning of some samples of the batch."""
        return self.apply(lambda tensor: tensor[index])

    def drop(self, name: str, dropped: Bool[Tensor, " b"]) -> "Conditioning":
        """Zero the source called `name` for each sample where `dropped`."""
        return replace(self, sources={**self.sources, name: self.sources[name].drop(dropped)})

    def null(self) -> "Conditioning":
        """Every source dropped: what classifier-free guidance calls unconditional. The low-resolution picture stays."""
        sources = {
            name: embedding.drop(torch.ones_like(embedding.mask[:, 0])) for name, embedding in self.sources.items()
        }
        return replace(self, sources=sources, paint=None)

    def with_low_res(self, low_res: Float[Tensor, "b 3 h w"], aug_level: Float[Tensor, " b"]) -> "Conditioning":
        """The same words, for a super-resolution stage."""
        return replace(self, low_res=low_res, aug_level=aug_level)

    @staticmethod
    def cat(parts: "list[Conditioning]") -> "Conditioning":
        """Stack along the batch: the conditional and unconditional halves of a guided call become one call.

        Raises:
            ValueError: the parts do not have the same sources.
        """
        names = set(parts[0].sources)
        if any(set(part.sources) != names for part in parts):
            raise ValueError(f"cannot join conditionings of different sources: {[sorted(p.sources) for p in parts]}")

        def join(tensors: list[Tensor | None]) -> Tensor | None:
            present = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(present) if present else None

        sources = {name: Embedding.cat([part.sources[name] for part in parts]) for name in parts[0].sources}
        lengths = {name: source.tokens.shape[1] for name, source in sources.items()}
        return Conditioning(
            sources,
            join([part.low_res for part in parts]),
            join([part.aug_level for part in parts]),
            Paint.cat([(part.paint, part.batch_size) for part in parts], lengths),
        )

    @property
    def batch_size(self) -> int:
        """How many samples it is for; 0 if it says nothing."""
        tensors = [embedding.mask for embedding in self.sources.values()]
        return len((tensors or [torch.empty(0) if self.low_res is None else self.low_res])[0])


def pad_to(tensor: Tensor, length: int, dim: int) -> Tensor:
    """The tensor with zeros behind it, `length` long along `dim`."""
    missing = list(tensor.shape)
    missing[dim] = length - tensor.shape[dim]
    return tensor if not missing[dim] else torch.cat([tensor, tensor.new_zeros(missing)], dim)


def _maybe(function: Callable[[Tensor], Tensor], tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else function(tensor)


@runtime_checkable
class Denoiser(Protocol):
    """Contract 1: estimate the clean picture.

    Preconditioned networks, guidance, thresholding and ensembles of experts all have this shape, so each may stand
    where another stood.
    """

    def __call__(
        self, x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """Denoised picture [b, 3, h, w] for the noisy `x` at noise level `sigma` [b]."""
        ...


Denoise = Callable[[Tensor, Tensor], Tensor]
"""What a sampler is handed: `denoise(x, sigma)`, x [b,c,h,w], sigma [b], a denoiser with its conditioning bound."""

Callback = Callable[["SamplerState"], None]
"""Called by a sampler after every step."""

Generators = torch.Generator | list[torch.Generator] | None
"""Randomness is passed: one generator, or one per picture so that a picture does not depend on its neighbours."""


@dataclass(frozen=True)
class SamplerState:
    """What a sampler tells its callback after a step.

    Attributes:
        step: index of the finished step, from 0.
        num_steps: how many steps the schedule has.
        sigma: noise level the step started from.
        x: [b, c, h, w] the picture after the step, still noisy.
        denoised: [b, c, h, w] the last estimate of the clean picture.
    """

    step: int
    num_steps: int
    sigma: float
    x: Tensor
    denoised: Tensor


@runtime_checkable
class Sampler(Protocol):
    """Contract 2: solve the probability-flow ODE (or the SDE) from `x` at `sigmas[0]` down to `sigmas[-1] == 0`.

    A sampler is a pure function that knows nothing of text, guidance or experts, and calls `denoise` with the sigma of
    each evaluation: a Runge-Kutta stage between two grid points must reach the expert that owns that point.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Float[Tensor, "b c h w"],
        sigmas: Float[Tensor, " s"],
        *,
        generator: Generators = None,
        callback: Callback | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The clean picture."""
        ...

    def nfe(self, num_steps: int) -> int:
        """Network calls that a schedule of `num_steps` steps costs."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A frozen network that turns texts (or pictures) into an `Embedding`."""

    def __call__(self, inputs: Any) -> Embedding:
        """Encode a list of texts, or pictures [b, 3, h, w] in [-1, 1]."""
        ...


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """An encoder of texts that can tell its tokens: what painting and weighting words asks for."""

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Token ids and mask, as long as the embedding's."""
        ...

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions of the tokens that cover characters [start, end) of a text."""
        ...

    def token_strings(self, text: str) -> list[str]:
        """What each token reads, for people."""
        ...

    def truncated_text(self, text: str) -> str:
        """The end of a text that is too long, which the encoder does not see."""
        ...
