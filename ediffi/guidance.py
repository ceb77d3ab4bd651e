"""Denoisers that wrap denoisers to steer them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from registry.types import Conditioning, Denoiser


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2022): `uncond + w·(cond - uncond)`; `w = 1` is off and costs one call.

    Both halves go through the denoiser as one batch.

    Args:
        denoiser: the denoiser to guide.
        guidance_scale: w, at least 0.
        negative: the conditioning to move away from; None for the null condition.

    Raises:
        ValueError: `guidance_scale` is negative.
    """

    denoiser: Denoiser
    guidance_scale: float
    negative: Conditioning | None = None

    def __post_init__(self) -> None:
        if not self.guidance_scale >= 0:
            raise ValueError(f"guidance_scale must be at least 0 (1 is off), got {self.guidance_scale}")

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Guided estimate of the clean pictures."""
        if self.guidance_scale == 1:
            return self.denoiser(x, sigma, cond)
        negative = self._negative(cond)
        if self.guidance_scale == 0:
            return self.denoiser(x, sigma, negative)
        both = Conditioning.cat([cond, negative])
        conditional, unconditional = self.denoiser(x.repeat(2, 1, 1, 1), sigma.repeat(2), both).chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _negative(self, cond: Conditioning) -> Conditioning:
        if self.negative is None:
            return cond.null()
        return Conditioning(self.negative.sources, cond.low_res, cond.aug_level)
