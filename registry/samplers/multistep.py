"""Multistep methods, one network call a step: DEIS, DPM-Solver++(2M), exponential Adams methods.

All combine the evaluations of the last steps. The first steps combine those there are; the step to sigma = 0 ignores
them and gives the denoised image itself. The history continues when another expert takes over. None draws noise.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ediffi.registry.samplers.schedules import Array, time_of
from ediffi.registry.samplers.solver import Evaluate, NoiseLike, Step, combine

DeisVariable = Literal["log_rho", "rho"]
AdamsVariable = Literal["vp_time", "log_sigma"]
"""What the interpolating polynomial is a polynomial in."""

MAX_ORDER = 3
Scale = Callable[[Array], Array]
DEIS_VARIABLES: dict[DeisVariable, Scale] = {"log_rho": np.log, "rho": np.asarray}
ADAMS_VARIABLES: dict[AdamsVariable, Scale] = {"vp_time": time_of, "log_sigma": np.log}

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


def integrals(sigmas: Sequence[float], span: tuple[float, float], variable: Scale, kernel: Scale) -> list[float]:
    """w_j = integral over log sigma of kernel(sigma) prod_{k != j} (v(sigma) - v(s_k)) / (v(s_j) - v(s_k)).

    s_j are `sigmas`, v is `variable`; the integral is over `span`. By Gauss-Legendre quadrature in log sigma with 64
    nodes, in float64, exact to rounding. Closed forms, where there are any, lose digits for short steps, where they
    subtract nearly equal numbers.
    """
    half = np.log(span[1] / span[0]) / 2
    sigma = span[0] * np.exp(half * (1 + NODES))
    v, v_j = variable(sigma), variable(np.asarray(sigmas))
    measure = half * WEIGHTS * kernel(sigma)
    result = []
    for j in range(len(sigmas)):
        lagrange = np.ones_like(v)
        for k in range(len(sigmas)):
            if k != j:
                lagrange = lagrange * (v - v_j[k]) / (v_j[j] - v_j[k])
        result.append(float(np.sum(measure * lagrange)))
    return result


def deis_coefficients(rhos: Sequence[float], rho_next: float, variable: DeisVariable = "log_rho") -> list[float]:
    """C_j = integral from rho_0 to rho_next of prod_{k != j} (v(rho) - v(rho_k)) / (v(rho_j) - v(rho_k)) d rho.

    DEIS's C_ij after the change of variable to rho: the noise estimates at `rhos` are interpolated by Lagrange's
    polynomial in v = log rho (or v = rho) and integrated over the step, which begins at the first of them.
    """
    return integrals(rhos, (rhos[0], rho_next), DEIS_VARIABLES[variable], lambda rho: rho)


def adams_coefficients(
    sigmas: Sequence[float], sigma: float, sigma_next: float, variable: AdamsVariable = "vp_time"
) -> list[float]:
    """w_j = sigma_next * integral of exp(lambda) l_j(v) d lambda, l_j Lagrange's polynomials at `sigmas`.

    In v = log sigma these have a closed form (the phi functions of UniPC); in VP time they have none. They sum to
    1 - sigma_next / sigma. `sigma` is among `sigmas` for a predictor, `sigma_next` too for a corrector.
    """
    return integrals(sigmas, (sigma, sigma_next), ADAMS_VARIABLES[variable], lambda level: -sigma_next / level)


@dataclass(frozen=True)
class Deis:
    """x_next = x + sum_{j < order} C_j eps_j, eps = (x - D(x; sigma)) / sigma at this level and those before it.

    Exponential Adams-Bashforth in rho (DEIS, arXiv 2204.13902, section 3, "AB", with the rho of section 4). The paper
    counts the previous evaluations, one less than `order`: its log-rho-AB0 (= DDIM = Euler), AB1 and AB2 are order 1, 2
    and 3. diffusers' `DEISMultistepScheduler(solver_order=2 or 3)` is order 2 or 3, from 15 steps on.

    From a sigma_max far above the data, where eps is nearly constant, order 3 converges as order 3 (measured from 80);
    from sigma 3 the first step, an Euler step, leaves order 2. The polynomial is in `variable`; in "rho", this is
    k-diffusion's `sample_lms`.
    """

    order: int
    variable: DeisVariable
    stages = 1

    def __post_init__(self) -> None:
        _check(self.order, self.variable, DEIS_VARIABLES)

    def start(self, num_steps: int, noise_like: NoiseLike) -> Step:
        """The step function, with an empty history."""
        history: deque[tuple[float, Tensor]] = deque(maxlen=self.order)

        def step(evaluate: Evaluate, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            denoised = evaluate(x, sigma)
            if sigma_next == 0:
                return denoised, denoised
            history.appendleft((sigma, (x - denoised) / sigma))
            rhos, eps = zip(*history, strict=True)
            return combine(x, deis_coefficients(rhos, sigma_next, self.variable), eps), denoised

        return step


@dataclass(frozen=True)
class DPMpp2M:
    """x_next = (sigma_next / sigma) x - (e^-h - 1) D, D = (1 + 1/2r) D_i - (1/2r) D_{i-1}.

    DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) with lambda = -log sigma (alpha = 1 in EDM's coordinates),
    h = lambda_next - lambda and r = h_last / h. The first step is of first order.
    """

    stages = 1

    def start(self, num_steps: int, noise_like: NoiseLike) -> Step:
        """The step function, with an empty history."""
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

        return step


@dataclass(frozen=True)
class ExpAdams:
    """x_next = (sigma_next / sigma) x + sum_{j < order} w_j D_j, D at this level and those before it.

    In lambda = -log sigma the ODE is d x / d lambda = D - x: linear in x, so its solution from sigma to sigma_next is

        x_next = (sigma_next / sigma) x + sigma_next * integral of exp(lambda) D d lambda

    and an exponential Adams method puts the polynomial through the known D under the integral (Hochbruck & Ostermann
    2011, "Exponential multistep methods of Adams-type"). DPM-Solver++ and UniPC (arXiv 2302.04867) take the polynomial
    in lambda; ours is in the time t of the linear VP schedule, as "tAB" in the DEIS paper does for the noise estimate.

    With the corrector, the evaluation at the end of a step, which the next step needs anyway, goes into a polynomial
    of one degree more, and the step is taken again with it before the next begins; what was evaluated stays
    (Adams-Bashforth-Moulton in PEC mode; UniC in UniPC). That raises the order by one and costs no call. A callback
    sees the predictor's images, those that were evaluated.
    """

    order: int
    variable: AdamsVariable
    corrector: bool
    stages = 1

    def __post_init__(self) -> None:
        _check(self.order, self.variable, ADAMS_VARIABLES)

    def start(self, num_steps: int, noise_like: NoiseLike) -> Step:
        """The step function, with an empty history."""
        history: list[tuple[float, Tensor]] = []
        begin: tuple[float, Tensor] | None = None

        def advance(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
            levels, denoised = zip(*history, strict=True)
            weights = adams_coefficients(levels, sigma, sigma_next, self.variable)
            return combine((sigma_next / sigma) * x, weights, denoised)

        def step(evaluate: Evaluate, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            nonlocal begin
            denoised = evaluate(x, sigma)
            if sigma_next == 0:
                return denoised, denoised
            history.insert(0, (sigma, denoised))
            if self.corrector and begin is not None:
                x = advance(begin[1], begin[0], sigma)
            begin = sigma, x
            del history[self.order :]
            return advance(x, sigma, sigma_next), denoised

        return step


def _check(order: int, variable: str, allowed: Mapping[DeisVariable, object] | Mapping[AdamsVariable, object]) -> None:
    if order not in range(1, MAX_ORDER + 1):
        raise ValueError(f"order is {order!r}; it must be an integer from 1 to {MAX_ORDER}")
    if variable not in allowed:
        raise ValueError(f"variable is {variable!r}; it must be one of {', '.join(allowed)}")
