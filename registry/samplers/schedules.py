"""Grids of noise levels by name, in `GRIDS`, and the time of the linear variance-preserving schedule.

That schedule (Song et al., arXiv 2011.13456, appendix C) has beta(t) = beta_min + (beta_max - beta_min) t, t <= 1, so
x_VP = x / sqrt(1 + sigma^2) with sigma^2 = exp((beta_max - beta_min) t^2 / 2 + beta_min t) - 1 (EDM, table 1, "VP").
Here it is only a clock: a grid is uniform in it, and the polynomial of a solver is in it. t = 1 is sigma = 152; larger
noise levels have t > 1.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

Grid = Literal["karras", "vp_time"]
"""A power is uniform: of the noise level, or of the time of the linear VP schedule."""

Array = npt.NDArray[np.float64]

BETA_MIN, BETA_MAX = 0.1, 20.0  # of Song et al.
SLOPE = BETA_MAX - BETA_MIN


def time_of(sigma: Array) -> Array:
    """t = (sqrt(beta_min^2 + 2 (beta_max - beta_min) log(1 + sigma^2)) - beta_min) / (beta_max - beta_min).

    Computed as 2 l / (beta_min + sqrt(...)), l = log(1 + sigma^2), which loses no digits where sigma is small.
    """
    log = np.log1p(np.square(sigma))
    return np.asarray(2 * log / (BETA_MIN + np.sqrt(BETA_MIN**2 + 2 * SLOPE * log)))


def sigma_of(time: Array) -> Array:
    """sigma = sqrt(exp((beta_max - beta_min) t^2 / 2 + beta_min t) - 1), t at least 0."""
    return np.asarray(np.sqrt(np.expm1(SLOPE * np.square(time) / 2 + BETA_MIN * time)))


def karras(
    num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " s"]:
    """sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, i < n; sigma_n = 0.

    EDM, eq. 5. `rho` bends the grid: 1 is uniform in sigma, the larger the denser at low noise. The grid matters more
    than the solver. One step is [sigma_max, 0]. The [num_steps + 1] levels are computed in float64.

    Args:
        num_steps: n, at least 1; the last of the n steps goes from `sigma_min` to 0.
        sigma_min: last noise level before 0, above 0 (EDM: 0.002).
        sigma_max: first noise level, above `sigma_min` (EDM: 80).
        rho: exponent of the grid, above 0 (EDM: 7).
        dtype: floating dtype of the result.
    """
    return _uniform(num_steps, sigma_min, sigma_max, rho, dtype, vp=False)


def vp_time(
    num_steps: int, sigma_min: float, sigma_max: float, rho: float = 3.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " s"]:
    """sigma_i = sigma(t_i), t_i^(1/rho) uniform from t(sigma_max) to t(sigma_min), i < n; sigma_n = 0.

    t is the time of the linear VP schedule. In the DEIS authors' code this is the grid of `ts_phase` "t" and `ts_order`
    rho. Our choice of rho 3: with `exp_abm` on Gaussian mixtures (benchmarks/sampler_order.py) it ended nearer to the
    truth than 2 at 10 to 50 network calls, and about as near as 4. Arguments, result and errors as `karras`.
    """
    return _uniform(num_steps, sigma_min, sigma_max, rho, dtype, vp=True)


GRIDS: Mapping[Grid, Callable[..., Float[Tensor, " s"]]] = {"karras": karras, "vp_time": vp_time}
"""Grids by name; all are called as `karras` is."""


def _uniform(num_steps: int, sigma_min: float, sigma_max: float, rho: float, dtype: torch.dtype, vp: bool) -> Tensor:
    """The grid that is uniform in the power 1/rho of the noise level, or of its VP time, and the closing 0."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
    if not sigma_min > 0:
        raise ValueError(f"sigma_min is {sigma_min}; it must be above 0")
    if not sigma_min < sigma_max < float("inf"):
        raise ValueError(f"sigma_max is {sigma_max}; it must be finite and above sigma_min = {sigma_min}")
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho is {rho}; it must be finite and above 0")
    high, low = time_of(np.array([sigma_max, sigma_min])).tolist() if vp else (sigma_max, sigma_min)
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    sigmas = torch.cat([torch.from_numpy(sigma_of(levels.numpy())) if vp else levels, levels.new_zeros(1)])
    # the ends are exact, not to rounding: a stage's range of noise levels begins and ends there
    sigmas[-2] = sigma_min
    sigmas[0] = sigma_max  # of one level, the first counts
    return sigmas.to(dtype)
