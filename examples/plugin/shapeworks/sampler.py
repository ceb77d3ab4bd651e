"""SDE-DPM-Solver++(2M): the second-order multistep solver of the diffusion SDE (Lu et al., arXiv 2211.01095)."""

import math
from dataclasses import dataclass

from torch import Tensor

from ediffi.registry.samplers.solver import Evaluate, NoiseLike, Solver, Step


def dpmpp_2m_sde(eta: float = 1.0) -> Solver:
    """SDE-DPM-Solver++(2M) (arXiv 2211.01095): fresh noise at every step; n network calls for n steps.

    Args:
        eta: how much noise; 1 is the SDE of the paper, 0 the ODE (`dpmpp_2m`).

    Raises:
        ValueError: `eta` is negative or not finite.
    """
    return Solver(DPMpp2MSDE(eta))


@dataclass(frozen=True)
class DPMpp2MSDE:
    """x_next = (s_next / s) e^(-eta h) x + (1 - e^-(1 + eta)h) D + s_next sqrt(1 - e^(-2 eta h)) z, z standard normal.

    With s = sigma, h = log(s / s_next), r = h_last / h and D = D_i + (D_i - D_{i-1}) / 2r, as k-diffusion's
    `sample_dpmpp_2m_sde` has it ("midpoint"). The first step is of first order, and so is the step to 0, which is the
    denoised image itself.

    Args:
        eta: see `dpmpp_2m_sde`.
    """

    eta: float = 1.0
    stages = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta is {self.eta}; it must be finite and at least 0")

    def start(self, num_steps: int, noise_like: NoiseLike) -> Step:
        """The step function of one run; `noise_like` draws the noise of every step."""
        last: tuple[float, Tensor] | None = None

        def step(evaluate: Evaluate, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            nonlocal last
            denoised = evaluate(x, sigma)
            if sigma_next == 0:
                return denoised, denoised
            h = math.log(sigma / sigma_next)
            extrapolated = denoised
            if last is not None:
                h_last, denoised_last = last
                extrapolated = denoised + (denoised - denoised_last) * h / (2 * h_last)
            last = h, denoised
            x = sigma_next / sigma * math.exp(-self.eta * h) * x - math.expm1(-(1 + self.eta) * h) * extrapolated
            if self.eta:
                x = x + sigma_next * math.sqrt(-math.expm1(-2 * self.eta * h)) * noise_like(x)
            return x, denoised

        return step
