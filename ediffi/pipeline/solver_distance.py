"""How far a sampler ends from where the ODE ends: the price of few network calls, told from equal noise."""

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
        nfe: network calls it took.
        distances: [b] root mean square over the values of a picture, one for each start.
    """

    sampling: Sampling
    nfe: int
    distances: Float[Tensor, " b"]

    @property
    def typical(self) -> float:
        """Geometric mean over the starts: a start that ends at another picture weighs as one start, not as all."""
        return float(self.distances.double().clamp(min=1e-30).log().mean().exp())


def solve(denoise: Denoise, noise: Float[Tensor, " b *shape"], sampling: Sampling) -> Float[Tensor, " b *shape"]:
    """What the ODE makes of standard normal noise under a setting; guidance is `denoise`'s own business."""
    sigmas = sampling.sigmas()
    with torch.inference_mode():
        return sampling.build()(denoise, noise * sigmas[0].to(noise), sigmas)


def within_calls(sampling: Sampling, calls: int) -> Sampling:
    """The setting with as many steps as a budget of network calls allows.

    Args:
        sampling: the setting.
        calls: the budget, at least 1; a Runge-Kutta method may leave some of it.

    Raises:
        ValueError: `calls` is below 1.
    """
    if calls < 1:
        raise ValueError(f"calls is {calls}; it must be at least 1")
    sampler = sampling.build()
    steps = next(n for n in range(calls, 0, -1) if sampler.nfe(n) <= calls)
    return dataclasses.replace(sampling, num_inference_steps=steps)


def fine(sampling: Sampling, calls: int = 200) -> Sampling:
    """The setting whose solution the others are held against, between the same noise levels.

    Kutta's method on the grid in VP time: of third order, and one-step, so related to none of the multistep methods.
    Our choice; at 200 calls on a Gaussian, whose solution is known, it is far nearer to it than `dpmpp_2m`.
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
    """The distance of each setting's solution to a reference, from the same noise, one at a time as they are done.

    Args:
        denoise: the denoiser with its conditioning, guidance included.
        noise: standard normal starts; scaled here by each setting's sigma_max.
        settings: how to sample.
        reference: what they should end at: `solve` of the setting `fine`.
        limit: solution and reference are clipped to [-limit, limit] first, as a stage clips its pictures to [-1, 1];
            None for no clipping.

    Raises:
        ValueError: the reference has another shape than the noise, or the settings do not all begin and end at the same
            noise levels, so that their solutions are not those of one problem.
    """
    if reference.shape != noise.shape:
        raise ValueError(
            f"reference has shape {tuple(reference.shape)}, noise {tuple(noise.shape)}; they must be equal"
        )
    ends = {(sampling.sigma_max, sampling.sigma_min) for sampling in settings}
    if len(ends) > 1:
        raise ValueError(f"settings go between {sorted(ends)} (sigma_max, sigma_min); they must all have the same ends")

    def clipped(images: Tensor) -> Tensor:
        return images if limit is None else images.clamp(-limit, limit)

    for sampling in settings:
        difference = clipped(solve(denoise, noise, sampling)) - clipped(reference)
        distances = difference.flatten(1).square().mean(1).sqrt()
        yield SolverDistance(sampling, sampling.nfe, distances)
