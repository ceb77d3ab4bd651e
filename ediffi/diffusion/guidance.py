"""Denoisers that wrap a denoiser: classifier-free guidance, prompt switching, dynamic thresholding."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ediffi.registry import encoders
from ediffi.registry.types import Conditioning, Denoiser

SigmaRange = tuple[float, float]
"""Noise levels (low, high]: low < sigma <= high."""


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Classifier-free guidance (Ho & Salimans 2022): `uncond + w·(cond - uncond)`; `w = 1` is off and costs one call.

    With a style image and a style scale `s`, `uncond + w·(words - uncond) + w·s·(both - words)`: `s = 1` is the plain
    formula for words and image, `s = 0` ignores the image. Our choice; eDiff-I has `w` only.

    All terms go through the denoiser as one batch.

    Args:
        denoiser: the denoiser to guide.
        guidance_scale: w, at least 0.
        negative: the conditioning to move away from; None for the null condition.
        interval: (low, high]: guidance applies for low < sigma <= high, elsewhere `w = 1` (Kynkäänniemi et al. 2024,
            arXiv 2404.07724); None for all noise levels.
        style_scale: s, at least 0.
    """

    denoiser: Denoiser
    guidance_scale: float
    negative: Conditioning | None = None
    interval: SigmaRange | None = None
    style_scale: float = 1.0

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Guided estimate of the clean images."""
        guided: Bool[Tensor, " b"] = torch.ones_like(sigma, dtype=torch.bool)
        if self.interval is not None:
            guided = (sigma > self.interval[0]) & (sigma <= self.interval[1])
        w = torch.where(guided, self.guidance_scale, 1.0).view(-1, 1, 1, 1)
        terms = self._terms(cond, w)
        if len(terms) == 1:
            return self.denoiser(x, sigma, terms[0][0])
        count = len(terms)
        both = Conditioning.cat([term for term, _ in terms])
        parts = self.denoiser(x.repeat(count, 1, 1, 1), sigma.repeat(count), both).chunk(count)
        result = parts[0]
        for last, part, (_, weight) in zip(parts, parts[1:], terms[1:], strict=False):
            result = result + weight.to(part) * (part - last)
        return result

    def _terms(self, cond: Conditioning, w: Float[Tensor, "b 1 1 1"]) -> list[tuple[Conditioning, Tensor]]:
        """The conditionings from negative to words to style, each with the weight of its difference to the one before.

        A term that does not change the sum is left out, since each costs a network evaluation.
        """
        if (w == 0).all():
            return [(self._negative(cond), w)]
        terms = [(self._negative(cond), w)] if (w != 1).any() else []
        images = [source for source in cond.sources if encoders.spec_of_source(source).reads == "image"]
        style = self.style_scale if images else 1.0
        if style != 1:
            words = cond
            for source in images:
                words = words.drop(source, torch.ones_like(w.flatten(), dtype=torch.bool))
            terms.append((words, w))
        if style != 0:
            terms.append((cond, w * style))
        return terms

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


@dataclass(frozen=True)
class PromptSwitching:
    """Prompt switching (eDiff-I, figure 4): a second conditioning takes over at noise levels up to `sigma`.

    Args:
        denoiser: the denoiser of both.
        after: the second conditioning; the low-resolution image stays that of the first.
        sigma: noise level at and below which it is used.
    """

    denoiser: Denoiser
    after: Conditioning
    sigma: float

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Estimate of the clean images."""
        before = sigma > self.sigma
        if before.all():
            return self.denoiser(x, sigma, cond)
        denoised = self.denoiser(x, sigma, Conditioning(self.after.sources, cond.low_res, cond.aug_level))
        if not before.any():
            return denoised
        return torch.where(before.view(-1, 1, 1, 1), self.denoiser(x, sigma, cond), denoised)
