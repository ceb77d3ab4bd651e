"""The ensemble of expert denoisers (eDiff-I, section 4.1): each owns an interval of noise, and runs only there."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ediffi.diffusion.noise import LogNormal, NoiseInterval, check_partition
from ediffi.diffusion.streaming import StreamedDenoisers
from ediffi.registry.types import Conditioning, Denoiser, at_level


@dataclass(frozen=True)
class Expert:
    """An expert without its weights."""

    interval: NoiseInterval  # that it owns
    parent: NoiseInterval | None = None  # the node whose weights it started from; None if it started at random
    steps: int = 0  # of its own training


class ExpertTree(nn.Module):
    """Experts that partition the noise; itself a denoiser.

    A sample goes to the one expert that owns its noise level, so a call costs as much as one network. All samples of a
    sampling step have the same noise level and stay one batch; a mixed batch (validation) is split.

    Args:
        noise: the training noise whose quantiles the intervals are.
        experts: together they own each noise level once.
        denoisers: their networks, in the same order: resident, or streamed from files.

    Raises:
        ValueError: the intervals overlap or leave a gap.
    """

    def __init__(
        self, noise: LogNormal, experts: Sequence[Expert], denoisers: nn.ModuleList | StreamedDenoisers
    ) -> None:
        super().__init__()
        if len(experts) != len(denoisers):
            raise ValueError(f"{len(experts)} experts need as many networks, got {len(denoisers)}")
        check_partition([expert.interval for expert in experts])
        self.noise, self.experts, self.denoisers = noise, tuple(experts), denoisers
        owned = sorted((low, index) for index, e in enumerate(experts) for low, _ in noise.bounds(e.interval))
        self._levels, self._experts = [low for low, _ in owned[1:]], [index for _, index in owned]
        self._edges, self._owners = torch.tensor(self._levels, dtype=torch.float64), torch.tensor(self._experts)

    def route(self, sigma: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Index of the expert that owns each noise level; an edge belongs to the noisier side."""
        piece = torch.bucketize(sigma.double(), self._edges.to(sigma.device), right=True)
        return self._owners.to(sigma.device)[piece]

    def at(self, sigma: float) -> nn.Module:
        """The network of the expert that owns a noise level, until another level is asked for."""
        return self.denoisers[self._experts[bisect_right(self._levels, sigma)]]

    def forward(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Denoised images, each by the expert that owns its noise level."""
        owners = self.route(sigma)
        present = owners.unique().tolist()
        if len(present) == 1:
            return self.denoisers[present[0]](x, sigma, cond)
        # Networks under autocast may return float32 for a half-precision x, never less.
        denoised = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for index in present:
            rows = (owners == index).nonzero().flatten()
            denoised[rows] = self.denoisers[index](x[rows], sigma[rows], cond[rows])
        return denoised

    def loss_weight(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """`lambda(sigma)` of the preconditioning, which all experts share."""
        weight: Tensor = self.denoisers[0].loss_weight(sigma)  # type: ignore[operator]
        return weight


class AutocastDenoiser(nn.Module):
    """A denoiser that runs under autocast, as in mixed-precision training."""

    def __init__(self, denoiser: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.denoiser, self.dtype = denoiser, dtype

    def forward(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Denoised images."""
        return self._run(self.denoiser, x, sigma, cond)

    def at(self, sigma: float) -> Denoiser:
        """The denoiser at one noise level, under autocast."""
        return partial(self._run, at_level(self.denoiser, sigma))

    def _run(self, denoiser: Denoiser, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return denoiser(x, sigma, cond)


def in_dtype(denoiser: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The denoiser with the weights of its linear and convolution layers, in place, in `dtype`, under autocast.

    In float32 there is no autocast. Norms and embeddings stay float32, since they are small and lose most.
    """
    inner = denoiser.denoiser if isinstance(denoiser, AutocastDenoiser) else denoiser
    for layer in inner.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.dtype != dtype:
            layer.to(dtype)
    if (tree := expert_tree(inner)) is not None and isinstance(tree.denoisers, StreamedDenoisers):
        tree.denoisers.forget()
    return inner if dtype == torch.float32 else AutocastDenoiser(inner, dtype)


def compile_networks(denoiser: nn.Module, device: torch.device) -> None:
    """Compile each network of a denoiser, in place, at its first call; on CUDA it is replayed as a captured graph."""
    networks, tree = [denoiser], expert_tree(denoiser)
    if tree is not None:
        networks = [tree.denoisers.network] if isinstance(tree.denoisers, StreamedDenoisers) else [*tree.denoisers]
    for network in networks:
        network.compile(mode="reduce-overhead" if device.type == "cuda" else "default")


def expert_tree(denoiser: nn.Module) -> ExpertTree | None:
    """The tree of experts in a stage's denoiser, whatever wraps it; None if it has none."""
    return next((module for module in denoiser.modules() if isinstance(module, ExpertTree)), None)
