"""Solvers of the probability-flow ODE: a method takes one step, `Solver` walks down the grid of noise levels with it.

The ODE is d x / d sigma = (x - D(x; sigma)) / sigma (EDM, eq. 1 and 3 with sigma(t) = t). Its right side is the noise
estimate, so EDM's sigma is the variable that the DEIS paper calls rho.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ediffi.registry.random import Generators, noise_like
from ediffi.registry.types import Callback, Denoise, SamplerState, at_level

Evaluate = Callable[[Tensor, float], Tensor]
"""`evaluate(x, sigma)`: one network call on the whole batch, at the noise level of this evaluation."""

NoiseLike = Callable[[Tensor], Tensor]
"""`noise_like(x)`: standard normal noise of the shape, device and dtype of `x`; at every call other noise."""

Step = Callable[[Evaluate, Tensor, float, float], tuple[Tensor, Tensor]]
"""`step(evaluate, x, sigma, sigma_next) -> (x at sigma_next, last denoised)`."""


@runtime_checkable
class Method(Protocol):
    """The difference between one solver and another."""

    @property
    def stages(self) -> int:
        """Network calls of each step but the last, to sigma = 0, which has one."""

    def start(self, num_steps: int, noise_like: NoiseLike) -> Step:
        """The step function of one run of `num_steps` steps; it holds the history of the run."""


@dataclass(frozen=True)
class Solver:
    """A `Sampler` (see `ediffi.registry.types`) that takes the steps of a method.

    The state is kept in the dtype of `x`, but at least float32, and so is the sigma that `denoise` gets, since an
    expert is chosen by it. `denoise` itself gets `x` in the dtype it came in.
    """

    method: Method

    def __call__(
        self,
        denoise: Denoise,
        x: Float[Tensor, " b *shape"],
        sigmas: Float[Tensor, " s"],
        *,
        generator: Generators = None,
        callback: Callback | None = None,
    ) -> Float[Tensor, " b *shape"]:
        """The clean images; methods that add noise draw it from `generator`. ValueError for `sigmas` as `levels`."""
        grid = levels(sigmas)
        dtype = torch.promote_types(x.dtype, torch.float32)

        def evaluate(state: Tensor, sigma: float) -> Tensor:
            sigma_b = torch.full((state.shape[0],), sigma, dtype=dtype, device=state.device)
            level = sigma if dtype == torch.float64 else float(np.float32(sigma))  # as in sigma_b
            return at_level(denoise, level)(state.to(x.dtype), sigma_b).to(dtype)

        state, step = x.to(dtype), self.method.start(len(grid) - 1, noise_like(generator))
        for i, (sigma, sigma_next) in enumerate(pairwise(grid)):
            state, denoised = step(evaluate, state, sigma, sigma_next)
            if callback is not None:
                changed = callback(SamplerState(i, len(grid) - 1, sigma, state.to(x.dtype), denoised.to(x.dtype)))
                state = state if changed is None else changed.to(state)
        return state.to(x.dtype)

    def nfe(self, num_steps: int) -> int:
        """Network calls of `num_steps` steps."""
        return self.method.stages * (num_steps - 1) + 1


def levels(sigmas: Float[Tensor, " s"]) -> list[float]:
    """The grid as Python floats, so that coefficients are computed in float64.

    ValueError unless `sigmas` is a finite, strictly decreasing grid of at least two levels that ends in 0.
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
