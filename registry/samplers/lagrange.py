"""What multistep methods weigh their evaluations with: integrals of Lagrange's polynomials over a step."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


def integrals(
    sigmas: Sequence[float],
    span: tuple[float, float],
    variable: Callable[[Array], Array],
    kernel: Callable[[Array], Array],
) -> list[float]:
    """w_j = integral over log sigma of kernel(sigma) prod_{k != j} (v(sigma) - v(s_k)) / (v(s_j) - v(s_k)).

    By Gauss-Legendre quadrature in log sigma with 64 nodes, in float64, exact to rounding; closed forms, where there
    are any, are not, for short steps, where they subtract nearly equal numbers.

    Args:
        sigmas: s_j, the levels of the known evaluations.
        span: levels where the integral begins and ends, above 0.
        variable: v, what the polynomial is a polynomial in.
        kernel: what it is multiplied by.

    Returns:
        One weight per level, in the order of `sigmas`.
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
