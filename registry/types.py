"""The three contracts of the package, and the glossary of shapes.

Glossary: `b` batch, `c` channels, `h w` height and width, `n` tokens, `d` embedding width.
`sigma` [b] noise standard deviation; `sigmas` [s] the decreasing grid of a sampler, ending in 0; `x` [b,3,h,w] noisy
images; `images` clean images in [-1, 1]; `denoised` an estimate of the clean images; `cond` a `Conditioning`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ediffi.registry.random import Generators

T = TypeVar("T", bound="Tensors")


@dataclass(frozen=True)
class Tensors:
    """A dataclass of tensors [b, ...], of mappings of them, of other `Tensors`, of None, and of flags."""

    def apply(self: T, function: Callable[[Tensor], Tensor]) -> T:
        """Apply `function` to each tensor."""
        return replace(self, **{field.name: _applied(function, getattr(self, field.name)) for field in fields(self)})

    def __getitem__(self: T, index: "slice | list[int] | Int[Tensor, ' k'] | Bool[Tensor, ' b']") -> T:
        """Some samples of the batch."""
        return self.apply(lambda tensor: tensor[index])


def _applied(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _applied(function, part) for name, part in value.items()}
    if isinstance(value, Tensors):
        return value.apply(function)
    return value if value is None or isinstance(value, bool) else function(value)


@dataclass(frozen=True)
class Embedding(Tensors):
    """The output of one encoder for a batch.

    Attributes:
        tokens: [b, n, d] one vector per token.
        mask: [b, n] True for a real token, False for padding.
        pooled: [b, p] one vector for the whole input; None if the encoder has none (T5).
        weight: [b, n] weight of each token in attention; 1 is neutral, None is 1 for all.
        all_tokens: True if `mask` is known to be True everywhere, so that nobody has to read it back from a device.
    """

    tokens: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]
    pooled: Float[Tensor, "b p"] | None = None
    weight: Float[Tensor, "b n"] | None = None
    all_tokens: bool = False

    @property
    def neutral(self) -> bool:
        """Whether it is known, without a look at a tensor, that no token is masked or weighted."""
        return self.all_tokens and self.weight is None

    def drop(self, dropped: Bool[Tensor, " b"]) -> "Embedding":
        """Zero the whole embedding of each sample where `dropped` (eDiff-I, section 4.2).

        Our choice: the mask is zeroed too, so that a dropped caption does not even tell its length, and the learned
        null token takes the attention.
        """
        blank = self.apply(lambda tensor: tensor.masked_fill(dropped.view(-1, *[1] * (tensor.ndim - 1)), 0))
        return replace(blank, all_tokens=False)

    def padded(self, multiple: int) -> "Embedding":
        """With masked tokens up to a multiple, so that batches have few lengths; an only token stays alone."""
        if (length := self.tokens.shape[1]) == 1 or not length % multiple:
            return self
        length += -length % multiple
        tokens, mask = pad_to(self.tokens, length, dim=1), pad_to(self.mask, length, dim=1)
        weight = None if self.weight is None else pad_to(self.weight, length, dim=1)
        return Embedding(tokens, mask, self.pooled, weight)

    @staticmethod
    def cat(parts: "list[Embedding]") -> "Embedding":
        """Concatenate along the batch; shorter ones are padded with zeros, masked."""
        length = max(part.tokens.shape[1] for part in parts)

        def join(tensors: list[Tensor]) -> Tensor:
            return torch.cat([pad_to(tensor, length, dim=1) for tensor in tensors])

        pooled, weight = _cat([part.pooled for part in parts]), None
        if any(part.weight is not None for part in parts):
            weight = join([torch.ones_like(p.tokens[..., 0]) if p.weight is None else p.weight for p in parts])
        whole = all(part.all_tokens and part.tokens.shape[1] == length for part in parts)
        tokens, mask = join([part.tokens for part in parts]), join([part.mask for part in parts])
        return Embedding(tokens, mask, pooled, weight, whole)


@dataclass(frozen=True)
class Paint(Tensors):
    """Paint-with-words for a batch: regions of the image, and the tokens that belong in each (eDiff-I, section 4.3).

    Attributes:
        areas: [b, r, h, w] share of each pixel that a region covers, 0 to 1, at any resolution.
        tokens: [b, r, n] by source: weight of token n in region r; 0 if it does not belong there.
        strength: [b] 1 if a sample has a layout, else 0; `PaintWithWords` multiplies it by `w'·log(1+sigma)`.
    """

    areas: Float[Tensor, "b r h w"]
    tokens: Mapping[str, Float[Tensor, "b r n"]]
    strength: Float[Tensor, " b"]

    @staticmethod
    def cat(parts: "list[tuple[Paint | None, int]]", lengths: Mapping[str, int]) -> "Paint | None":
        """Concatenate along the batch; a part is a paint, or None (strength 0), and its batch size.

        The tokens of each source are padded to its length in `lengths`.
        """
        like = next((paint for paint, _ in parts if paint is not None), None)
        if like is None:
            return None
        blank = like.apply(lambda tensor: torch.zeros_like(tensor[:1]))
        paints = [blank[[0] * batch] if paint is None else paint for paint, batch in parts]
        regions = max(paint.areas.shape[1] for paint in paints)

        def join(tensors: list[Tensor]) -> Tensor:
            return torch.cat([pad_to(tensor, regions, dim=1) for tensor in tensors])

        tokens = {name: join([pad_to(p.tokens[name], lengths[name], dim=2) for p in paints]) for name in like.tokens}
        return Paint(join([p.areas for p in paints]), tokens, torch.cat([p.strength for p in paints]))


@dataclass(frozen=True)
class Conditioning(Tensors):
    """Contract 3: everything that a denoiser gets besides noisy images; one value from the encoders to the last layer.

    Attributes:
        sources: one `Embedding` per source, by name: "t5", "clip_text", "clip_image", or a plug-in's.
        low_res: [b, 3, h', w'] images to super-resolve, in [-1, 1] plus augmentation noise; None in the base stage.
        aug_level: [b] standard deviation of the noise that was added to `low_res`; None in the base stage.
        paint: None without paint-with-words.
    """

    sources: Mapping[str, Embedding] = field(default_factory=dict)
    low_res: Float[Tensor, "b 3 h w"] | None = None
    aug_level: Float[Tensor, " b"] | None = None
    paint: Paint | None = None

    def to(self, *args: Any, **kwargs: Any) -> "Conditioning":
        """Move to a device or a floating dtype, as `Tensor.to`; masks stay boolean."""

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(*args, **kwargs)
            return moved if tensor.is_floating_point() else moved.to(tensor.dtype)

        return self.apply(move)

    def drop(self, name: str, dropped: Bool[Tensor, " b"]) -> "Conditioning":
        """Zero the source `name` of each sample where `dropped`."""
        return replace(self, sources={**self.sources, name: self.sources[name].drop(dropped)})

    def null(self) -> "Conditioning":
        """All sources dropped: the unconditional input of classifier-free guidance. The low-resolution images stay."""
        sources = {name: source.drop(torch.ones_like(source.mask[:, 0])) for name, source in self.sources.items()}
        return replace(self, sources=sources, paint=None)

    def padded(self, multiple: int) -> "Conditioning":
        """The same for any network, with sources of few lengths (`Embedding.padded`); not for a painted one."""
        assert self.paint is None
        return replace(self, sources={name: source.padded(multiple) for name, source in self.sources.items()})

    def with_low_res(self, low_res: Float[Tensor, "b 3 h w"], aug_level: Float[Tensor, " b"]) -> "Conditioning":
        """The same sources, for a super-resolution stage."""
        return replace(self, low_res=low_res, aug_level=aug_level)

    @staticmethod
    def cat(parts: "list[Conditioning]") -> "Conditioning":
        """Concatenate along the batch, so that the conditional and unconditional halves of guidance are one call.

        ValueError if the parts do not have the same sources.
        """
        names = set(parts[0].sources)
        if any(set(part.sources) != names for part in parts):
            raise ValueError(f"cannot join conditionings of different sources: {[sorted(p.sources) for p in parts]}")

        sources = {name: Embedding.cat([part.sources[name] for part in parts]) for name in parts[0].sources}
        lengths = {name: source.tokens.shape[1] for name, source in sources.items()}
        return Conditioning(
            sources,
            _cat([part.low_res for part in parts]),
            _cat([part.aug_level for part in parts]),
            Paint.cat([(part.paint, part.batch_size) for part in parts], lengths),
        )

    @property
    def batch_size(self) -> int:
        """Number of samples; 0 if it has neither sources nor `low_res`."""
        tensors = [embedding.mask for embedding in self.sources.values()]
        return len((tensors or [torch.empty(0) if self.low_res is None else self.low_res])[0])


def _cat(tensors: list[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def pad_to(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Append zeros along `dim`, up to `length`."""
    missing = list(tensor.shape)
    missing[dim] = length - tensor.shape[dim]
    return tensor if not missing[dim] else torch.cat([tensor, tensor.new_zeros(missing)], dim)


@runtime_checkable
class Denoiser(Protocol):
    """Contract 1: estimate the clean images, as networks, guidance, thresholding and ensembles of experts do."""

    def __call__(
        self, x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """Denoised images [b, 3, h, w] for noisy `x` at noise levels `sigma` [b]."""


Denoise = Callable[[Tensor, Tensor], Tensor]
"""`denoise(x, sigma)`, x [b,c,h,w], sigma [b]: a denoiser with its conditioning bound, as a sampler gets it."""

D = TypeVar("D", bound=Callable[..., Any])


def at_level(denoiser: D, sigma: float) -> D:
    """The denoiser for calls in which all samples have noise level `sigma`: what its `at(sigma)` returns, or itself.

    `at` chooses the expert, the guidance and the prompt on the host. A call without it has to read `sigma` back from
    the device, which then waits for all that is queued.
    """
    at = getattr(denoiser, "at", None)
    return denoiser if at is None else at(sigma)


Callback = Callable[["SamplerState"], Tensor | None]
"""Called by a sampler after every step; a tensor that it returns takes the place of `x`."""


@dataclass(frozen=True)
class SamplerState:
    """A sampler's state after a step, for its callback."""

    step: int  # from 0
    num_steps: int
    sigma: float  # noise level at which the step began
    x: Tensor  # [b, c, h, w] the images after the step, still noisy
    denoised: Tensor  # [b, c, h, w] the last estimate of the clean images


@runtime_checkable
class Sampler(Protocol):
    """Contract 2: solve the probability-flow ODE (or the SDE) from `x` at `sigmas[0]` down to `sigmas[-1] == 0`.

    A pure function without text, guidance or experts. It calls `denoise` with the sigma of each evaluation, since a
    Runge-Kutta stage between two grid points must reach the expert of that noise level.
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
        """The clean images."""

    def nfe(self, num_steps: int) -> int:
        """Network calls of a schedule of `num_steps` steps."""


@runtime_checkable
class Encoder(Protocol):
    """A frozen network that encodes texts or images; one of texts is a `TextEncoder`."""

    def __call__(self, inputs: Any) -> Embedding:
        """Encode a list of texts, or images [b, 3, h, w] in [-1, 1]."""


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """An encoder of texts that tells its tokens, which painting and weighting words need."""

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Token ids and mask, as long as the embedding's."""

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions of the tokens that cover characters [start, end) of a text."""

    def token_strings(self, text: str) -> list[str]:
        """Each token as a readable string."""

    def truncated_text(self, text: str) -> str:
        """The end of a too long text, which the encoder does not read; "" if it reads all."""
