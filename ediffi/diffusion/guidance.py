"""Denoisers that wrap a denoiser: classifier-free guidance, prompt switching, dynamic thresholding."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ediffi.io.numbers import check_number
from ediffi.registry import encoders
from ediffi.registry.types import Callback, Conditioning, Denoiser, SamplerState, at_level

SigmaRange = tuple[float, float]
"""Noise levels (low, high]: low < sigma <= high."""


@dataclass(frozen=True)
class GuidanceSchedule:
    """A guidance scale for each noise level.

    Args:
        scale: w of a sigma, called on the host with the sigma of each network call.

    Raises:
        ValueError: when it is called, if `scale` returns no number of at least 0.
    """

    scale: Callable[[float], float]

    @classmethod
    def of_pairs(cls, pairs: Sequence[Sequence[float]]) -> "GuidanceSchedule":
        """Linear in ln sigma between pairs (sigma, w), constant outside; ValueError: a sigma is not above 0 or is given
        twice, or a w is below 0."""
        ordered = sorted((float(sigma), float(w)) for sigma, w in pairs)
        levels, scales = zip(*ordered, strict=True)
        if not (levels[0] > 0 and len(set(levels)) == len(levels) and min(scales) >= 0 and np.isfinite(ordered).all()):
            raise ValueError(
                f"guidance_scale must be pairs of different sigmas above 0 and w of at least 0, got {pairs}"
            )
        return cls(lambda sigma: float(np.interp(np.log(max(sigma, 1e-12)), np.log(levels), scales)))

    def __call__(self, sigma: float) -> float:
        """w at a noise level."""
        w = self.scale(sigma)
        check_number(f"guidance_scale at sigma {sigma:.3g}", w, lambda w: 0 <= w < math.inf, "at least 0 and finite")
        return float(w)


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Classifier-free guidance (Ho & Salimans 2022): `uncond + w·(cond - uncond)`; `w = 1` is off and costs one call.

    With a style image and a style scale `s`, `uncond + w·(words - uncond) + w·s·(both - words)`: `s = 1` is the plain
    formula for words and image, `s = 0` ignores the image. Our choice; eDiff-I has `w` only.

    All terms go through the denoiser as one batch.

    Args:
        denoiser: the denoiser to guide.
        guidance_scale: w, at least 0; or w of each noise level.
        negative: the conditioning to move away from; None for the null condition.
        interval: (low, high]: guidance applies for low < sigma <= high, elsewhere `w = 1` (Kynkäänniemi et al. 2024,
            arXiv 2404.07724); None for all noise levels.
        style_scale: s, at least 0.
    """

    denoiser: Denoiser
    guidance_scale: float | GuidanceSchedule
    negative: Conditioning | None = None
    interval: SigmaRange | None = None
    style_scale: float = 1.0
    _joined: deque[tuple[Conditioning, list[str], Conditioning]] = field(
        default_factory=partial(deque, maxlen=4), init=False, repr=False, compare=False
    )

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Guided estimate of the clean images."""
        if self.interval is None and not isinstance(self.guidance_scale, GuidanceSchedule):
            return self._guided(self.denoiser, self.guidance_scale, x, sigma, cond)
        scales = [self._scale(level) for level in sigma.tolist()]
        w = torch.tensor(scales, device=sigma.device).view(-1, 1, 1, 1) if len(set(scales)) > 1 else scales[0]
        return self._guided(self.denoiser, w, x, sigma, cond)

    def at(self, sigma: float) -> Denoiser:
        """The denoiser at one noise level, guided if the interval holds it."""
        return partial(self._guided, at_level(self.denoiser, sigma), self._scale(sigma))

    def _scale(self, sigma: float) -> float:
        """w at a noise level; 1 outside of the interval."""
        low, high = map(np.float32, self.interval or (-math.inf, math.inf))  # as they are compared with a tensor
        if not low < sigma <= high:
            return 1.0
        return self.guidance_scale(sigma) if isinstance(self.guidance_scale, GuidanceSchedule) else self.guidance_scale

    def _guided(
        self, denoiser: Denoiser, w: float | Tensor, x: Tensor, sigma: Tensor, cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        names, weights = self._terms(cond, w)
        both, count = self._join(cond, names), len(names)
        if count == 1:
            return denoiser(x, sigma, both)
        parts = denoiser(x.repeat(count, 1, 1, 1), sigma.repeat(count), both).chunk(count)
        result = parts[0]
        for last, part, weight in zip(parts, parts[1:], weights[1:], strict=False):
            result = result + weight * (part - last)
        return result

    def _terms(self, cond: Conditioning, w: float | Tensor) -> tuple[list[str], list[float | Tensor]]:
        """The conditionings from "negative" to "words" to "style", and the weight of each one's difference to the last.

        A term that does not change the sum is left out, since each costs a network evaluation.
        """
        mixed = isinstance(w, Tensor)
        if not mixed and w == 0:
            return ["negative"], [w]
        style = self.style_scale if self._images(cond) else 1.0
        terms = {"negative": w} if mixed or w != 1 else {}
        if style != 1:
            terms["words"] = w
        if style != 0:
            terms["style"] = w * style
        return list(terms), list(terms.values())

    def _join(self, cond: Conditioning, names: list[str]) -> Conditioning:
        """The conditionings of these names as one batch; kept, as the calls of a run have one or two `cond`."""
        for known, joined, both in self._joined:
            if known is cond and joined == names:
                return both
        words = cond
        for source in self._images(cond):
            words = words.drop(source, torch.ones_like(cond.sources[source].mask[:, 0]))
        kinds = {"negative": self._negative(cond), "words": words, "style": cond}
        both = Conditioning.cat([kinds[name] for name in names]) if len(names) > 1 else kinds[names[0]]
        self._joined.append((cond, names, both))
        return both

    def _images(self, cond: Conditioning) -> list[str]:
        return [source for source in cond.sources if encoders.spec_of_source(source).reads == "image"]

    def _negative(self, cond: Conditioning) -> Conditioning:
        if self.negative is None:
            return cond.null()
        null = cond.null()  # for sources that the negative prompt has not: a style image is dropped, not kept
        return Conditioning({**null.sources, **self.negative.sources}, cond.low_res, cond.aug_level)


@dataclass(frozen=True)
class DynamicThresholding:
    """Dynamic thresholding (Imagen, Saharia et al. 2022, section 2.3): strong guidance without burnt colours.

    `s = max(1, quantile(|D|, percentile))` for each image; the estimate is clipped to [-s, s] and divided by `s`.

    Args:
        denoiser: the denoiser whose estimates are thresholded.
        percentile: in (0, 1]; Imagen's is 0.995, lower is stronger.
    """

    denoiser: Denoiser
    percentile: float

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Estimates in [-1, 1]."""
        denoised = self.denoiser(x, sigma, cond)
        largest = torch.quantile(denoised.abs().flatten(1).float(), self.percentile, dim=1).clamp(min=1)
        s = largest.to(denoised).view(-1, 1, 1, 1)
        return denoised.clamp(-s, s) / s

    def at(self, sigma: float) -> "DynamicThresholding":
        """The same, of the denoiser at one noise level."""
        return replace(self, denoiser=at_level(self.denoiser, sigma))


@dataclass
class PromptSwitching:
    """Prompt switching (eDiff-I, figure 4): a second conditioning takes over for the last steps of one sampling.

    It goes by step, not by noise level: the last evaluation of a Runge-Kutta step has the level at which the next step
    begins, and churn begins a step above its level.

    Args:
        denoiser: the denoiser of both.
        after: the second conditioning; the low-resolution image stays that of the first.
        first: the first step that reads it, from 0.
    """

    denoiser: Denoiser
    after: Conditioning
    first: int
    step: int = field(default=0, init=False)  # in progress

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Estimate of the clean images."""
        return self.denoiser(x, sigma, self._now(cond))

    def at(self, sigma: float) -> Denoiser:
        """The denoiser at one noise level."""
        denoiser = at_level(self.denoiser, sigma)
        return lambda x, sigma, cond: denoiser(x, sigma, self._now(cond))

    def counting(self, callback: Callback | None) -> Callback:
        """A sampler's callback that counts the steps, and calls `callback`."""

        def stepped(state: SamplerState) -> None:
            self.step = state.step + 1
            if callback is not None:
                callback(state)

        return stepped

    def _now(self, cond: Conditioning) -> Conditioning:
        if self.step < self.first:
            return cond
        return (
            self.after if cond.low_res is None else replace(self.after, low_res=cond.low_res, aug_level=cond.aug_level)
        )
