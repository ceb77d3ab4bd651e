"""DEIS, multistep: exponential Adams-Bashforth in rho (arXiv 2204.13902, section 3, "AB", with the rho of section 4).

`order` here is the number of evaluations combined, which is also the order of convergence. The DEIS paper counts the
previous evaluations, one less: order 1, 2, 3 are its log-rho-AB0 (= DDIM = Euler), log-rho-AB1 and log-rho-AB2.
diffusers' `DEISMultistepScheduler(solver_order=2 or 3)` is order 2 or 3, from 15 steps on.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ediffi.registry.samplers.lagrange import Array, integrals
from ediffi.registry.samplers.ode import Evaluate, combine, descend
from ediffi.registry.types import Callback, Denoise, Generators

Variable = Literal["log_rho", "rho"]
"""What the interpolating polynomial is a polynomial in."""

MAX_ORDER = 3
VARIABLES: dict[Variable, Callable[[Array], Array]] = {"log_rho": np.log, "rho": np.asarray}


def coefficients(rhos: Sequence[float], rho_next: float, variable: Variable = "log_rho") -> list[float]:
    """C_j = integral from rho_0 to rho_next of prod_{k != j} (v(rho) - v(rho_k)) / (v(rho_j) - v(rho_k)) d rho.

    DEIS's C_ij after the change of variable to rho: the noise estimates at `rhos` are interpolated by Lagrange's
    polynomial in v = log rho (or v = rho) and integrated over the step, see `ediffi.registry.samplers.lagrange`.

    Args:
        rhos: levels of the known evaluations, the latest (where the step begins) first.
        rho_next: level where the step ends, above 0.
        variable: v.

    Returns:
        One weight per level, in the order of `rhos`.
    """
    return integrals(rhos, (rhos[0], rho_next), VARIABLES[variable], lambda rho: rho)


@dataclass(frozen=True)
class Deis:
    """x_next = x + sum_{j < order} C_j eps_j, eps = (x - D(x; sigma)) / sigma at this level and those before it.

    One evaluation a step. The first steps combine what history there is: from a sigma_max far above the data, where eps
    is nearly constant, order 3 is order 3 (measured from 80); from sigma 3 the first, Euler, step leaves order 2. The
    step to 0, where log rho ends, is the denoised picture. The history goes on across an expert's edge. Deterministic.

    Args:
        order: evaluations combined, 1 to 3.
        variable: the polynomial is in log rho or in rho; in rho, it is k-diffusion's `sample_lms`.

    Raises:
        ValueError: an argument out of range.
    """

    order: int
    variable: Variable

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

        Raises:
            ValueError: `sigmas` is not a decreasing grid that ends in 0.
        """
        history: deque[tuple[float, Tensor]] = deque(maxlen=self.order)

        def step(evaluate: Evaluate, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            denoised = evaluate(x, sigma)
            if sigma_next == 0:
                return denoised, denoised
            history.appendleft((sigma, (x - denoised) / sigma))
            rhos, eps = zip(*history, strict=True)
            return combine(x, coefficients(rhos, sigma_next, self.variable), eps), denoised

        return descend(denoise, x, sigmas, step, callback)

    def nfe(self, num_steps: int) -> int:
        """Network calls: one a step."""
        return num_steps
