"""Exponential Adams methods on the denoised picture, their polynomial in VP time; with a corrector that costs no call.

In lambda = -log sigma the ODE is d x / d lambda = D - x: linear in x, so its solution from sigma to sigma_next is

    x_next = (sigma_next / sigma) x + sigma_next * integral of exp(lambda) D d lambda

and an exponential Adams method puts the polynomial through the known D under the integral (Hochbruck & Ostermann 2011,
"Exponential multistep methods of Adams-type"). DPM-Solver++ (arXiv 2211.01095) and UniPC (arXiv 2302.04867) take the
polynomial in lambda; ours is in the time t of the linear VP schedule, `ediffi.registry.samplers.vp`, as "tAB" in the DEIS
paper (arXiv 2204.13902) takes that of the noise estimate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ediffi.registry.samplers import vp
from ediffi.registry.samplers.lagrange import Array, integrals
from ediffi.registry.samplers.ode import Evaluate, combine, descend
from ediffi.registry.types import Callback, Denoise, Generators

Variable = Literal["vp_time", "log_sigma"]
"""What the interpolating polynomial is a polynomial in."""

Known = tuple[float, Tensor]
"""A noise level and the denoised picture there."""

MAX_ORDER = 3
VARIABLES: dict[Variable, Callable[[Array], Array]] = {"vp_time": vp.time_of, "log_sigma": np.log}


def coefficients(
    sigmas: Sequence[float], sigma: float, sigma_next: float, variable: Variable = "vp_time"
) -> list[float]:
    """w_j = sigma_next * integral of exp(lambda) l_j(v) d lambda, l_j Lagrange's polynomials at `sigmas`.

    In v = log sigma these have a closed form (the phi functions of UniPC); in VP time they have none. Both by
    quadrature, see `ediffi.registry.samplers.lagrange`. They sum to 1 - sigma_next / sigma.

    Args:
        sigmas: levels of the known evaluations; `sigma` (predictor) or also `sigma_next` (corrector) among them.
        sigma: where the step begins.
        sigma_next: where it ends, above 0 and below `sigma`.
        variable: v.

    Returns:
        One weight per level, in the order of `sigmas`.
    """
    return integrals(sigmas, (sigma, sigma_next), VARIABLES[variable], lambda level: -sigma_next / level)


@dataclass(frozen=True)
class ExpAdams:
    """x_next = (sigma_next / sigma) x + sum_{j < order} w_j D_j, D at this level and those before it.

    One evaluation a step, of convergence `order`. With the corrector, the evaluation at the end of a step, which the
    next step needs anyway, goes into a polynomial of one degree more, and the step is taken again with it before the
    next begins; what was evaluated stays (Adams-Bashforth-Moulton in PEC mode; UniC in arXiv 2302.04867). That raises
    the order by one and costs no call. The first steps combine what history there is, and the step to 0, where the
    history is of no use, is the denoised picture. The history goes on across an expert's edge. Deterministic.

    Args:
        order: evaluations that the predictor combines, 1 to 3.
        variable: the polynomial is in VP time or in log sigma.
        corrector: take each step again with the evaluation at its end.

    Raises:
        ValueError: an argument out of range.
    """

    order: int
    variable: Variable
    corrector: bool

    def __post_init__(self) -> None:
        if self.order not in range(1, MAX_ORDER + 1):
            raise ValueError(f"order is {self.order!r}; it must be an integer from 1 to {MAX_ORDER}")
        if self.variable not in VARIABLES:
            raise ValueError(f"variable is {self.variable!r}; it must be one of {', '.join(get_args(Variable))}")

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

        With the corrector, `callback` sees the predictor's pictures, those that were evaluated.

        Raises:
            ValueError: `sigmas` is not a decreasing grid that ends in 0.
        """
        history: list[Known] = []
        begin: tuple[float, Tensor] | None = None

        def step(evaluate: Evaluate, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            nonlocal begin
            denoised = evaluate(x, sigma)
            if sigma_next == 0:
                return denoised, denoised
            history.insert(0, (sigma, denoised))
            if self.corrector and begin is not None:
                x = self._advance(begin[1], begin[0], sigma, history)
            begin = sigma, x
            del history[self.order :]
            return self._advance(x, sigma, sigma_next, history), denoised

        return descend(denoise, x, sigmas, step, callback)

    def nfe(self, num_steps: int) -> int:
        """Network calls: one a step."""
        return num_steps

    def _advance(self, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Known]) -> Tensor:
        """`x` at `sigma_next`, from its value at `sigma`."""
        levels, denoised = zip(*history, strict=True)
        weights = coefficients(levels, sigma, sigma_next, self.variable)
        return combine((sigma_next / sigma) * x, weights, denoised)
