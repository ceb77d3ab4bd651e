"""The ensemble of expert denoisers (eDiff-I, section 4.1): each owns a part of the noise, and only the owner runs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ediffi.diffusion.noise import ROOT, LogNormal, NoiseInterval, check_partition, merge
from ediffi.diffusion.streaming import StreamedDenoisers
from ediffi.registry.types import Conditioning


@dataclass(frozen=True)
class Expert:
    """What is known of an expert besides its weights.

    Attributes:
        region: the noise it owns.
        parent: the node whose weights it started from; None if it started at random.
        steps: optimiser steps it was trained for on its own noise.
    """

    region: NoiseInterval
    parent: NoiseInterval | None = None
    steps: int = 0


class ExpertTree(nn.Module):
    """Experts that share all noise out among them; itself a denoiser.

    A sample goes to the expert that owns its noise level, and to no other, so a call costs what one network costs. All
    samples of a sampling step have one noise level and stay one batch; a mixed batch (validation) is split.

    Args:
        noise: the training noise whose quantiles the regions are.
        experts: what each owns; together all noise, each level once.
        denoisers: their networks, in the same order: resident, or streamed from files.

    Raises:
        ValueError: the regions overlap or leave a gap, or there are not as many networks.
    """

    def __init__(
        self, noise: LogNormal, experts: Sequence[Expert], denoisers: nn.ModuleList | StreamedDenoisers
    ) -> None:
        super().__init__()
        if len(experts) != len(denoisers):
            raise ValueError(f"{len(experts)} experts need as many networks, got {len(denoisers)}")
        check_partition([expert.region for expert in experts])
        self.noise, self.experts, self.denoisers = noise, tuple(experts), denoisers
        owned = sorted((low, index) for index, e in enumerate(experts) for low, _ in noise.bounds(e.region))
        self._edges = torch.tensor([low for low, _ in owned[1:]], dtype=torch.float64)
        self._owners = torch.tensor([index for _, index in owned])

    @classmethod
    def trunk(cls, denoiser: nn.Module, noise: LogNormal, steps: int = 0) -> "ExpertTree":
        """The tree before it branches: one network for all noise."""
        return cls(noise, [Expert(ROOT, steps=steps)], nn.ModuleList([denoiser]))

    def route(self, sigma: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Index of the expert that owns each noise level; an edge belongs to the noisier side."""
        piece = torch.bucketize(sigma.double(), self._edges.to(sigma.device), right=True)
        return self._owners.to(sigma.device)[piece]

    def forward(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Denoised pictures [b, 3, h, w], each by its owner."""
        owners = self.route(sigma)
        present = owners.unique().tolist()
        if len(present) == 1:
            return self.denoisers[present[0]](x, sigma, cond)
        denoised = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for index in present:
            rows = (owners == index).nonzero().flatten()
            denoised[rows] = self.denoisers[index](x[rows], sigma[rows], cond[rows])
        return denoised

    def loss_weight(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """`lambda(sigma)` of the preconditioning, which all experts share."""
        weight: Tensor = self.denoisers[0].loss_weight(sigma)  # type: ignore[operator]
        return weight

    def branch(self, node: NoiseInterval, *into: NoiseInterval) -> "ExpertTree":
        """The tree in which the expert of `node` is replaced by clones of itself, one for each of `into`.

        Args:
            node: what the expert owns now.
            into: regions that share `node` out; its two children by default.

        Raises:
            ValueError: no expert owns just `node`, or `into` is not all of it.
        """
        index = self._index(node)
        regions = into or getattr(node, "children", ())
        if not regions or merge(regions) != node:
            raise ValueError(f"{', '.join(map(str, regions)) or 'nothing'} is not all of {node}; experts must share it")
        clones = [(Expert(region, parent=node), copy.deepcopy(self.denoisers[index])) for region in regions]
        return self._with(self._pairs()[:index] + clones + self._pairs()[index + 1 :])

    def _pairs(self) -> list[tuple[Expert, nn.Module]]:
        if isinstance(self.denoisers, StreamedDenoisers):
            raise ValueError("streamed experts cannot be branched; load them with expert_residency='resident'")
        return list(zip(self.experts, self.denoisers, strict=True))

    def _with(self, pairs: Sequence[tuple[Expert, nn.Module]]) -> "ExpertTree":
        return ExpertTree(self.noise, [expert for expert, _ in pairs], nn.ModuleList([net for _, net in pairs]))

    def _index(self, region: NoiseInterval) -> int:
        regions = [expert.region for expert in self.experts]
        if region not in regions:
            raise ValueError(f"no expert owns just {region}; the experts are {', '.join(map(str, regions))}")
        return regions.index(region)


class AutocastDenoiser(nn.Module):
    """A denoiser that runs under autocast, as in mixed-precision training.

    Args:
        denoiser: the denoiser.
        dtype: float16 or bfloat16.
    """

    def __init__(self, denoiser: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.denoiser, self.dtype = denoiser, dtype

    def forward(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Denoised images [b, 3, h, w]."""
        with torch.autocast(x.device.type, self.dtype):
            denoised: Tensor = self.denoiser(x, sigma, cond)
        return denoised


def expert_tree(denoiser: nn.Module) -> ExpertTree | None:
    """The tree of experts in a stage's denoiser, whatever wraps it; None if it has none."""
    return next((module for module in denoiser.modules() if isinstance(module, ExpertTree)), None)
