"""Losses of a stage by noise level, summed on the device that computes them until they are read."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from ediffi.diffusion.noise import LogNormal
from ediffi.training.loss import sum_by_band


class MeanLosses(NamedTuple):
    """The mean loss of all samples, and of those in each band; a band without samples is left out."""

    loss: float
    bands: dict[int, float]


class BandLosses:
    """Sums and numbers of losses in `bands` equal shares of the training noise. Adding to them reads nothing back, so
    that a GPU runs on; `means` reads once."""

    def __init__(self, noise: LogNormal, bands: int) -> None:
        self.noise, self.bands = noise, bands
        self._sums: Tensor | None = None

    def add(self, losses: Float[Tensor, " b"], sigma: Float[Tensor, " b"]) -> None:
        """Count the losses of a batch."""
        sigma = sigma.to(losses.device, non_blocking=True)
        sums = torch.stack(sum_by_band(losses.detach(), sigma, self.noise, self.bands))
        self._sums = sums if self._sums is None else self._sums + sums

    def means(self, strategy: Strategy | None = None) -> MeanLosses | None:
        """Means since the last `clear`, with a strategy over all of its processes; None if nothing was added."""
        if self._sums is None:
            return None
        summed = self._sums if strategy is None else strategy.reduce(self._sums, reduce_op="sum")
        sums, counts = summed.tolist()
        by_band = {band: sums[band] / counts[band] for band in range(self.bands) if counts[band]}
        return MeanLosses(sum(sums) / sum(counts), by_band)

    def clear(self) -> None:
        """Begin anew."""
        self._sums = None
