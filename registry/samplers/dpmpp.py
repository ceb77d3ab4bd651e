"""DPM-Solver++(2M): second-order multistep on the denoised picture (arXiv 2211.01095, algorithm 2)."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ediffi.registry.samplers.ode import Evaluate, descend
from ediffi.registry.types import Callback, Denoise, Generators


@dataclass(frozen=True)
class DPMpp2M:
    """x_next = (sigma_next / sigma) x - (e^-h - 1) D, D = (1 + 1/2r) D_i - (1/2r) D_{i-1}.

    With lambda = -log sigma (alpha = 1 in EDM's coordinates), h = lambda_next - lambda and r = h_last / h (algorithm 2
    of DPM-Solver++). One evaluation a step. The first step is of first order, and so is the step to 0, which is the
    denoised picture itself. Deterministic.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Float[Tensor, " b *shape"],
        sigmas: Float[Tensor, " s"],
        *,
        generator: Generators = None,
        callback: Callback | None = None,
    ) -> Float[Tensor, " b *shape"]:
        """The clean picture; see `ediffi.registry.types.Sampler`. `generator` is not drawn from.

        Raises:
            ValueError: `sigmas` is not a decreasing grid that ends in 0.
        """
        last: tuple[float, Tensor] | None = None

        def step(evaluate: Evaluate, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            nonlocal last
            denoised = evaluate(x, sigma)
            if sigma_next == 0:
                return denoised, denoised
            h = math.log(sigma / sigma_next)
            extrapolated = denoised
            if last is not None:
                sigma_last, denoised_last = last
                r = math.log(sigma_last / sigma) / h
                extrapolated = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * denoised_last
            last = sigma, denoised
            return (sigma_next / sigma) * x - math.expm1(-h) * extrapolated, denoised

        return descend(denoise, x, sigmas, step, callback)

    def nfe(self, num_steps: int) -> int:
        """Network calls: one a step."""
        return num_steps
