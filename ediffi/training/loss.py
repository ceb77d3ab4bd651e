"""What a training step computes: the conditioning of a batch, its weighted losses, and their means by noise level."""

import logging
from collections.abc import Collection, Iterable, Mapping
from functools import cache

import torch
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ediffi.diffusion.experts import ExpertTree
from ediffi.diffusion.low_res import LowResolution, augment
from ediffi.diffusion.noise import LogNormal
from ediffi.registry import encoders
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.random import Philox, rand, randn
from ediffi.registry.types import Conditioning

logger = logging.getLogger(__name__)


def weighted_losses(
    denoiser: Preconditioned | ExpertTree,
    images: Float[Tensor, "b 3 h w"],
    noise: Float[Tensor, "b 3 h w"],
    sigma: Float[Tensor, " b"],
    cond: Conditioning,
) -> Float[Tensor, " b"]:
    """`lambda(sigma)·mean (D(y + sigma·n; sigma, cond) - y)²` of each image y (EDM, equation 2 and table 1)."""
    denoised = denoiser(images + sigma.view(-1, 1, 1, 1) * noise, sigma, cond)
    errors = (denoised - images).square().flatten(1).mean(1)
    return denoiser.loss_weight(sigma) * errors


def sum_by_band(
    losses: Float[Tensor, " b"], sigma: Float[Tensor, " b"], noise: LogNormal, bands: int
) -> tuple[Float[Tensor, " bands"], Float[Tensor, " bands"]]:
    """Sums and numbers of the losses in equal shares of the training noise, the least noisy first.

    Band k owns the noise levels between the quantiles k/bands and (k + 1)/bands. Nothing is read back from the device.
    """
    above = [sigma > edge for edge in band_edges(noise, bands)]
    band = torch.stack(above).sum(0)
    member = band == torch.arange(bands, device=band.device)[:, None]
    return torch.where(member, losses, 0.0).sum(1), member.sum(1).float()


@cache
def band_edges(noise: LogNormal, bands: int) -> tuple[float, ...]:
    """The noise levels between `bands` equal shares of the training noise."""
    return tuple(noise.quantile(torch.arange(1, bands, dtype=torch.float64) / bands).tolist())


def dropout_of(sources: Iterable[str], read: Iterable[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """The probability of dropping each source of the data; `given` None is what its encoder declares, or its kind has.

    `read` are the sources that the network reads. ValueError: the data lacks one of them, or one that is `given`.
    Logged: no probability is given for one of them, so that it is never dropped.
    """
    present, wanted = set(sources), set(read)
    there = check_sources(present, wanted)
    if given is None:
        return {name: encoders.dropout(name) for name in present}
    for name in sorted(given.keys() - present):
        raise ValueError(f"model.dropout names {name!r}, and {there}")
    for name in sorted(wanted - given.keys()):
        why = "it is never dropped, and guidance has nothing to compare it with"
        rank_zero_only(logger.warning)("model.dropout names no probability for %r: %s", name, why)
    return dict(given)


def check_sources(present: Collection[str], read: Collection[str]) -> str:
    """ValueError if the data lacks a source that the network reads; returns what there is, in words."""
    there = f"the data has {', '.join(sorted(present)) or 'no embeddings'}"
    for name in sorted(set(read).difference(present)):
        raise ValueError(f"the network reads {name!r}, and {there}: embed it, or leave it out of the denoiser")
    return there


def drop_sources(cond: Conditioning, dropout: Mapping[str, float], randomness: Philox) -> Conditioning:
    """Drop each source of each sample with its own probability, independently; a source without one is kept."""
    names = sorted(cond.sources)  # so that the draws of a sample do not depend on the order in its shard
    drawn = rand((len(randomness), len(names)), randomness)
    for name, draws in zip(names, drawn.T, strict=True):
        dropped = draws < dropout.get(name, 0.0)
        cond = cond.drop(name, dropped.to(cond.sources[name].mask.device, non_blocking=True))
    return cond


def low_resolution(
    low_res: LowResolution | None,
    images: Float[Tensor, "b 3 H W"],
    given: Float[Tensor, "b 3 h w"] | None,
    randomness: Philox,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]]:
    """The noisy low-resolution images of a batch and their noise levels [b].

    `given` are low-resolution images of the dataset, degraded already; None to make them from `images`. ValueError if
    they come without `low_res`, which says how noisy they become, or have another size than its `scale` says.
    """
    if low_res is None:
        raise ValueError("the dataset has low-resolution images, and the stage has no low_res that says how noisy")
    if given is None:
        return low_res(images, randomness)
    size = [side // low_res.scale for side in images.shape[2:]]
    if list(given.shape[2:]) != size:
        expected = f"{size[1]}x{size[0]} (scale {low_res.scale})"
        found = f"{given.shape[3]}x{given.shape[2]}"
        raise ValueError(f"the dataset has low-resolution images of {found}, and the stage enlarges {expected}")
    level = (low_res.max_aug_level * rand((len(given),), randomness)).to(given.device, non_blocking=True)
    return augment(given, level, randn(given.shape, randomness, given.device, call=1)), level
