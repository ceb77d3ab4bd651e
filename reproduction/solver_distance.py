"""How far a sampler ends from the solution of the ODE, for a number of network calls, from the same noise."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ediffi.pipeline.stage import Sampling
from ediffi.registry.types import Denoise


@dataclass(frozen=True)
class SolverDistance:
    """How far one setting ended from the reference.

    Attributes:
        sampling: the setting.
        nfe: its network calls.
        distances: [b] root mean square over the values of an image, one for each start.
    """

    sampling: Sampling
    nfe: int
    distances: Float[Tensor, " b"]

    @property
    def typical(self) -> float:
        """Geometric mean over the starts: a start that ends at another image counts as one start, not as all."""
        return float(self.distances.double().clamp(min=1e-30).log().mean().exp())


def solve(denoise: Denoise, noise: Float[Tensor, " b *shape"], sampling: Sampling) -> Float[Tensor, " b *shape"]:
    """The sampler's solution of the ODE from standard normal noise; `denoise` includes any guidance."""
    sigmas = sampling.sigmas()
    with torch.inference_mode():
        return sampling.build()(denoise, noise * sigmas[0].to(noise), sigmas)


def within_calls(sampling: Sampling, calls: int) -> Sampling:
    """The setting with as many steps as `calls` network calls allow; Runge-Kutta methods may use fewer.

    Raises:
        ValueError: `calls` is below 1.
    """
    if calls < 1:
        raise ValueError(f"calls must be at least 1, got {calls}")
    sampler = sampling.build()
    steps = next(n for n in range(calls, 0, -1) if sampler.nfe(n) <= calls)
    return dataclasses.replace(sampling, num_inference_steps=steps)


def fine(sampling: Sampling, calls: int = 200) -> Sampling:
    """The setting of the reference solution, between the same noise levels.

    Kutta's method on the grid in VP time: third order and one-step, so it favours none of the multistep methods. Our
    choice; at 200 calls on a Gaussian, whose solution is known, it is far closer to it than `dpmpp_2m`.
    """
    named = dataclasses.replace(sampling, sampler="kutta3", arguments={}, grid="vp_time", rho=3.0)
    return within_calls(named, calls)


def solver_distances(
    denoise: Denoise,
    noise: Float[Tensor, " b *shape"],
    settings: Sequence[Sampling],
    reference: Float[Tensor, " b *shape"],
    limit: float | None = None,
) -> Iterator[SolverDistance]:
    """The distance of each setting's solution to a reference, one setting at a time.

    Args:
        denoise: the denoiser with its conditioning and guidance.
        noise: standard normal starts; scaled here by each setting's sigma_max.
        settings: samplings between the same noise levels.
        reference: `solve` of the setting `fine`.
        limit: solution and reference are clipped to [-limit, limit] first, as a stage clips to [-1, 1]; None for no
            clipping.

    Raises:
        ValueError: the reference has another shape than the noise, or the settings differ in their noise levels, so
            that they solve different problems.
    """
    if reference.shape != noise.shape:
        raise ValueError(
            f"reference has shape {tuple(reference.shape)}, noise {tuple(noise.shape)}; they must be equal"
        )
    ends = {(sampling.sigma_max, sampling.sigma_min) for sampling in settings}
    if len(ends) > 1:
        raise ValueError(f"settings go between {sorted(ends)} (sigma_max, sigma_min); they must all have the same ends")
    bound = float("inf") if limit is None else limit
    for sampling in settings:
        difference = solve(denoise, noise, sampling).clamp(-bound, bound) - reference.clamp(-bound, bound)
        yield SolverDistance(sampling, sampling.nfe, difference.flatten(1).square().mean(1).sqrt())
