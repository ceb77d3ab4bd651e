"""The Fréchet distance of two Gaussians, and the moments of features that arrive in batches. All in float64.

Also what an interval needs: the influence of each image, and the distance of infinitely many images.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

ROWS: Final = 4096
"""Rows in memory at a time."""
SHARES: Final = (1, 2, 4)
PER_DIMENSION: Final = 2
"""See `frechet_infinity`."""


@dataclass(frozen=True)
class Moments:
    """Mean [d] and scatter [d, d], the sum of (row - mean)(row - mean)ᵀ: pairwise update of Chan, Golub and LeVeque
    (1979).

    Each batch is centred on its own mean before it is squared, so that a large mean costs no digits.
    """

    count: int
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]

    @classmethod
    def zero(cls, width: int) -> "Moments":
        """No rows yet, of `width` numbers each."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    def update(self, batch: Float[Tensor, "b d"]) -> "Moments":
        """The moments with the rows of a batch added; the batch may be empty."""
        if not len(batch):
            return self
        rows = batch.detach().cpu().double().numpy()
        mean = rows.mean(0)
        rows = rows - mean
        return self.merge(Moments(len(rows), torch.from_numpy(mean), torch.from_numpy(rows.T @ rows)))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows."""
        if len(other.mean) != len(self.mean):
            raise ValueError(f"moments of rows of {len(self.mean)} and {len(other.mean)} numbers cannot be merged")
        if not self.count or not other.count:
            return self if other.count == 0 else other
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(shift, shift, alpha=self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), scatter)

    @property
    def cov(self) -> Float64[Tensor, "d d"]:
        """The unbiased covariance: scatter / (count - 1). ValueError: fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(
    mean1: Float64[Tensor, " d"],
    cov1: Float64[Tensor, "d d"],
    mean2: Float64[Tensor, " d"],
    cov2: Float64[Tensor, "d d"],
) -> float:
    """|mean1 - mean2|² + tr(cov1 + cov2 - 2 (cov1 cov2)^½) (Dowson and Landau, 1982; FID: arXiv 1706.08500, eq. 6).

    The matrix root is not computed, only its trace: see `trace_of_root`. A negative result of rounding becomes 0.
    ValueError: a value is not finite.
    """
    for name, part in {"mean1": mean1, "cov1": cov1, "mean2": mean2, "cov2": cov2}.items():
        if not part.isfinite().all():
            raise ValueError(f"{name} has {int((~part.isfinite()).sum())} values that are not finite")
    shift = mean1 - mean2
    distance = shift @ shift + cov1.trace() + cov2.trace()
    return max(0.0, float(distance) - 2 * trace_of_root(cov1, cov2))


def trace_of_root(cov1: Float64[Tensor, "d d"], cov2: Float64[Tensor, "d d"]) -> float:
    """tr (cov1 cov2)^½ of two covariances: the sum of the roots of the product's eigenvalues, which are not negative.

    With cov2 = LLᵀ the product has the eigenvalues of the symmetric Lᵀ cov1 L. LAPACK's sygv finds them much faster
    than a matrix root or the eigenvalues of the product, but needs a positive definite cov2; and an eigenvalue that is
    only rounding contributes its root, about 1e-8 instead of 0. So if the smallest one is within rounding, as with
    fewer rows than d, factors are used instead: with cov = SSᵀ the result is the sum of the singular values of S1ᵀS2,
    whose error is about 1e-16.
    """
    from scipy.linalg import LinAlgError, eigh

    first, second = cov1.numpy(), cov2.numpy()
    try:
        eigenvalues = eigh(first, second, type=2, eigvals_only=True, driver="gv", check_finite=False)
        if eigenvalues[0] > np.finfo(float).eps * eigenvalues[-1]:
            return float(np.sqrt(eigenvalues).sum())
    except LinAlgError:
        pass
    return float(np.linalg.svd(factor(first).T @ factor(second), compute_uv=False).sum())


def frechet_influence(
    features: Float[Tensor, "n d"], moments: Moments, mean2: Float64[Tensor, " d"], cov2: Float64[Tensor, "d d"]
) -> Float64[np.ndarray, " n"]:
    """How much each row moves the distance of the rows' Gaussian to another one: its derivative by the row's weight.

    2 (mean1 - mean2)·u + uᵀ(1 - A)u, less its mean, with u = row - mean1. A = S (Sᵀ cov1 S)^-½ Sᵀ, where cov2 = SSᵀ, is
    the map that transports one Gaussian to the other (Rippl, Munk and Sturm, arXiv 1507.04090). It is the derivative of
    2 tr (cov1 cov2)^½ where there are more rows than dimensions, which is checked: ValueError.
    """
    if moments.count <= len(mean2):
        raise ValueError(f"an influence needs more than {len(mean2)} rows, got {moments.count}")
    root = factor(cov2.numpy())
    values, vectors = np.linalg.eigh(root.T @ moments.cov.numpy() @ root)
    kept = values > np.finfo(float).eps * len(values) * max(values[-1], 0)
    carried = root @ vectors[:, kept] * values[kept] ** -0.25
    shift, parts = 2 * (moments.mean - mean2).numpy(), []
    for batch in features.split(ROWS):
        rows = batch.double().numpy() - moments.mean.numpy()
        spread = np.square(rows).sum(1) - np.square(rows @ carried).sum(1)
        parts.append(rows @ shift + spread * moments.count / (moments.count - 1))
    found = np.concatenate(parts)
    return found - found.mean()


def frechet_infinity(
    features: Float[Tensor, "n d"], mean2: Float64[Tensor, " d"], cov2: Float64[Tensor, "d d"], seed: int = 0
) -> float:
    """The distance of infinitely many images: a line through the distances of n, n/2 and n/4 over 1/n, at 0.

    The distance of n images is biased upwards by about b/n (Chong and Forsyth, arXiv 1911.07023). Our choice: each size
    is the mean over subsets that divide all images, not one random subset, so that the extrapolation adds no noise, and
    each image moves it as much as it moves the distance. The reference's own bias stays. nan where a quarter has fewer
    rows than `PER_DIMENSION` for each dimension: then the bias is no line.
    """
    if len(features) < SHARES[-1] * PER_DIMENSION * features.shape[1]:
        return float("nan")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(features)))
    distances = []
    for shares in SHARES:
        found = []
        for part in order.chunk(shares):
            moments = Moments.zero(features.shape[1])
            for rows in part.sort().values.split(ROWS):
                moments = moments.update(features[rows])
            found.append(frechet_distance(moments.mean, moments.cov, mean2, cov2))
        distances.append(np.mean(found))
    return float(np.polyfit(SHARES, distances, 1)[1])


def factor(cov: np.ndarray) -> np.ndarray:
    """S [d, rank] with SSᵀ = cov: LAPACK's Cholesky factorisation with complete pivoting (pstrf)."""
    from scipy.linalg.lapack import dpstrf

    lower, order, rank, _ = dpstrf(cov, lower=1)
    factored = np.empty((len(cov), rank))
    factored[order - 1] = np.tril(lower)[:, :rank]
    return factored
