"""Grids of noise levels: what a sampler walks down."""

import torch
from jaxtyping import Float
from torch import Tensor


def karras(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " s"]:
    """sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, i < n; sigma_n = 0.

    EDM, eq. 5. `rho` bends the grid: 1 is uniform in sigma, the larger the denser at low noise. The grid matters more
    than the solver. One step is [sigma_max, 0].

    Args:
        num_steps: n, at least 1; the last of the n steps goes from `sigma_min` to 0.
        sigma_min: last noise level before 0, above 0 (EDM: 0.002).
        sigma_max: first noise level, above `sigma_min` (EDM: 80).
        rho: exponent of the grid, above 0 (EDM: 7).
        dtype: floating dtype of the result; the grid is computed in float64.

    Returns:
        The [num_steps + 1] decreasing noise levels, the last exactly 0.

    Raises:
        ValueError: an argument out of range.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
    if not sigma_min > 0:
        raise ValueError(f"sigma_min is {sigma_min}; it must be above 0")
    if not sigma_min < sigma_max < float("inf"):
        raise ValueError(f"sigma_max is {sigma_max}; it must be finite and above sigma_min = {sigma_min}")
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho is {rho}; it must be finite and above 0")
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    sigmas = torch.zeros(num_steps + 1, dtype=torch.float64)
    sigmas[:-1] = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    sigmas[-2] = sigma_min  # the ends exactly, not to rounding; with one step only the first is kept
    sigmas[0] = sigma_max
    return sigmas.to(dtype)
