"""Explicit Runge-Kutta methods in rho (EDM's sigma): Euler, Heun and Kutta's third-order method, with EDM's churn.

DEIS (arXiv 2204.13902) names the family rho-RK and Kutta's method "3kutta", the solver of eDiff-I (table 7). A step has
evaluations between its ends, and `denoise` gets the sigma of each, because an ensemble of experts routes on it.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ediffi.registry.samplers.solver import Evaluate, NoiseLike, Step, combine


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method, in Butcher's notation."""

    c: tuple[float, ...]  # where each stage is evaluated: 0 is the beginning of the step, 1 its end
    a: tuple[tuple[float, ...], ...]  # for each stage, the weights of the slopes before it
    b: tuple[float, ...]  # weights of the slopes in the step itself


EULER = Tableau(c=(0.0,), a=((),), b=(1.0,))
HEUN = Tableau(c=(0.0, 1.0), a=((), (1.0,)), b=(1 / 2, 1 / 2))
KUTTA3 = Tableau(c=(0.0, 1 / 2, 1.0), a=((), (1 / 2,), (-1.0, 2.0)), b=(1 / 6, 4 / 6, 1 / 6))


@dataclass(frozen=True)
class Churn:
    """Noise added before a step: sigma_hat = (1 + gamma) sigma, x_hat = x + sqrt(sigma_hat^2 - sigma^2) S_noise n.

    gamma = min(S_churn / N, sqrt(2) - 1) where S_tmin <= sigma <= S_tmax, else 0 (EDM, algorithm 2; N steps, n standard
    normal). S_churn = 0 is the deterministic ODE.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.s_churn < math.inf:
            raise ValueError(f"s_churn is {self.s_churn}; it must be finite and at least 0")
        if not self.s_tmin >= 0:
            raise ValueError(f"s_tmin is {self.s_tmin}; it must be at least 0")
        if not self.s_tmax >= self.s_tmin:
            raise ValueError(f"s_tmax is {self.s_tmax}; it must be at least s_tmin = {self.s_tmin}")
        if not 0 < self.s_noise < math.inf:
            raise ValueError(f"s_noise is {self.s_noise}; it must be finite and above 0")

    def __call__(self, x: Tensor, sigma: float, num_steps: int, noise_like: NoiseLike) -> tuple[Tensor, float]:
        """x_hat and sigma_hat; draws only where gamma is above 0."""
        gamma = min(self.s_churn / num_steps, math.sqrt(2) - 1) if self.s_tmin <= sigma <= self.s_tmax else 0.0
        if gamma == 0:
            return x, sigma
        sigma_hat = (1 + gamma) * sigma
        return x + math.sqrt(sigma_hat**2 - sigma**2) * self.s_noise * noise_like(x), sigma_hat


@dataclass(frozen=True)
class RungeKutta:
    """x_next = x + h sum_j b_j d_j, d_j = (x_j - D(x_j; sigma_j)) / sigma_j, h = sigma_next - sigma.

    EDM, algorithm 2, is this with Heun's tableau. The step to sigma = 0 is an Euler step, which gives the denoised
    image itself.
    """

    tableau: Tableau
    churn: Churn = Churn()

    @property
    def stages(self) -> int:
        """Evaluations of a step."""
        return len(self.tableau.b)

    def start(self, num_steps: int, noise_like: NoiseLike) -> Step:
        """The step function; `noise_like` draws the churn, where there is any."""

        def step(evaluate: Evaluate, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            x, sigma = self.churn(x, sigma, num_steps, noise_like)
            if sigma_next == 0:
                denoised = evaluate(x, sigma)
                return denoised, denoised
            h = sigma_next - sigma
            slopes: list[Tensor] = []
            for c, row in zip(self.tableau.c, self.tableau.a, strict=True):
                sigma_j = (1 - c) * sigma + c * sigma_next
                x_j = combine(x, [h * a for a in row], slopes)
                denoised = evaluate(x_j, sigma_j)
                slopes.append((x_j - denoised) / sigma_j)
            return combine(x, [h * b for b in self.tableau.b], slopes), denoised

        return step
