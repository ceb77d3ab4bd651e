"""Maximum mean discrepancy of two sets of features, with the influence of each generated image: of KID, and CMMD."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ediffi.evaluation.metrics.intervals import Measure

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Values [b, m] for rows [b, d] and [m, d]."""
ROWS: Final = 1024
"""Rows of a kernel's matrix in memory at a time."""
COLUMNS: Final = 4096
"""Of an influence's mean over other images; more are drawn from at random. The interval changes by a percent."""
SIGMA, SCALE = 10.0, 1000.0
"""Of CMMD (Jayasumana et al., arXiv 2401.09603, section 4)."""


def cubic(x: Float[Tensor, "b d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "b m"]:
    """(x·y / d + 1)³: KID's kernel (Bińkowski et al., arXiv 1801.01401, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Float[Tensor, "b d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "b m"]:
    """exp(-|x - y|² / 2σ²) with σ = 10: CMMD's kernel."""
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    return torch.exp(squared.clamp(min=0) / (-2 * SIGMA**2))


def row_means(x: Tensor, y: Tensor, kernel: Kernel) -> np.ndarray:
    """The mean of the kernel of each row of `x` with all rows of `y` [b], in float64."""
    other = y.double()
    parts = [kernel(part.double(), other).mean(1) for part in x.split(ROWS)]
    return torch.cat(parts).numpy()


def cmmd(generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> Measure:
    """1000 · (E k(x, x') + E k(y, y') - 2 E k(x, y)) of rows of length 1, with a Gaussian kernel of σ = 10, where a row
    meets itself too, as in the authors' code (CMMD: arXiv 2401.09603). 0 for equal sets; no Gaussian is assumed."""
    x, y = (functional.normalize(torch.as_tensor(part).double(), dim=1) for part in (generated, real))
    own, across = row_means(x, x, gaussian), row_means(x, y, gaussian)
    value = own.mean() + row_means(y, y, gaussian).mean() - 2 * across.mean()
    moved = 2 * (own - across)
    return Measure(SCALE * float(value), SCALE * (moved - moved.mean()), least=0)


def kid_influence(generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], seed: int = 0) -> np.ndarray:
    """The influence of each generated image [n] on the squared discrepancy with KID's kernel, without a row's own.

    The means over other images are of at most `COLUMNS` of them, drawn by `seed`.
    """
    rng = np.random.default_rng(seed)
    x, y = torch.as_tensor(generated), torch.as_tensor(real)
    drawn, other = (torch.from_numpy(np.sort(rng.permutation(len(z))[:COLUMNS])) for z in (x, y))
    itself = torch.cat([((part.double().square().sum(1) / x.shape[1] + 1) ** 3) for part in x.split(ROWS)]).numpy()
    chosen = np.isin(np.arange(len(x)), drawn.numpy())
    own = row_means(x, x[drawn], cubic) * len(drawn) - np.where(chosen, itself, 0)
    moved = 2 * (own / (len(drawn) - chosen) - row_means(x, y[other], cubic))
    return moved - moved.mean()
