"""What every solver of the probability-flow ODE shares: the walk down the grid, and how the network is asked.

The ODE is d x / d sigma = (x - D(x; sigma)) / sigma (EDM, eq. 1 and 3 with sigma(t) = t). Its right side is the noise
estimate, so EDM's sigma is the variable that the DEIS paper calls rho.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ediffi.registry.types import Callback, Denoise, SamplerState

Evaluate = Callable[[Tensor, float], Tensor]
"""`evaluate(x, sigma)`: one network call on the whole batch at the noise level of this very evaluation."""

Step = Callable[[Evaluate, Tensor, float, float], tuple[Tensor, Tensor]]
"""`step(evaluate, x, sigma, sigma_next) -> (x at sigma_next, last denoised)`: what tells one solver from another."""


def descend(
    denoise: Denoise,
    x: Float[Tensor, " b *shape"],
    sigmas: Float[Tensor, " s"],
    step: Step,
    callback: Callback | None,
) -> Float[Tensor, " b *shape"]:
    """Walk `x` down the grid, one `step` at a time, and tell `callback` after each.

    The state is kept in the dtype of `x`, but at least float32, and so is the sigma that `denoise` gets: an expert is
    chosen by it. `denoise` itself sees `x` in the dtype it came in. `x` is never written into.

    Raises:
        ValueError: `sigmas` is not a decreasing grid that ends in 0.
    """
    grid = levels(sigmas)
    dtype = torch.promote_types(x.dtype, torch.float32)

    def evaluate(state: Tensor, sigma: float) -> Tensor:
        sigma_b = torch.full((state.shape[0],), sigma, dtype=dtype, device=state.device)
        return denoise(state.to(x.dtype), sigma_b).to(dtype)

    state = x.to(dtype)
    for i, (sigma, sigma_next) in enumerate(pairwise(grid)):
        state, denoised = step(evaluate, state, sigma, sigma_next)
        if callback is not None:
            callback(SamplerState(i, len(grid) - 1, sigma, state.to(x.dtype), denoised.to(x.dtype)))
    return state.to(x.dtype)


def levels(sigmas: Float[Tensor, " s"]) -> list[float]:
    """The grid as Python floats, so that coefficients are computed in float64.

    Raises:
        ValueError: `sigmas` is not a finite, strictly decreasing grid of at least two levels that ends in 0.
    """
    grid = [float(sigma) for sigma in sigmas.tolist()] if sigmas.ndim == 1 else []
    if len(grid) < 2 or not grid[0] < float("inf") or grid[-1] != 0 or any(not a > b for a, b in pairwise(grid)):
        raise ValueError(f"sigmas is {sigmas.tolist()}; it must decrease strictly, from a finite level to exactly 0")
    return grid


def combine(x: Tensor, weights: Iterable[float], slopes: Iterable[Tensor]) -> Tensor:
    """`x` + sum_j w_j d_j."""
    for weight, slope in zip(weights, slopes, strict=True):
        x = x + weight * slope
    return x
