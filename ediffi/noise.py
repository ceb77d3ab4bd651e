"""The noise a stage is trained on: `ln sigma ~ N(mean, std²)` (EDM, table 1)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LogNormal:
    """Log-normal training noise.

    Args:
        mean: mean of `ln sigma`; EDM's `P_mean`.
        std: standard deviation of `ln sigma`; EDM's `P_std`.

    Raises:
        ValueError: `std` is not positive.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std of the training noise must be positive, got {self.std}")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, " count"]:
        """Noise levels [count], drawn on the CPU."""
        return (self.mean + self.std * torch.randn(count, generator=generator)).exp()

    def quantile(self, q: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Noise levels below which a share `q` in (0, 1) of the training noise lies."""
        return (self.mean + self.std * torch.special.ndtri(q.double())).exp().to(q.dtype)
