"""The Fréchet distance of two Gaussians, and the moments of features that arrive in batches. All in float64."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and scatter of the rows seen so far, by the pairwise update of Chan, Golub and LeVeque (1979).

    Every batch is centred on its own mean before anything is squared, so that a mean far from 0 costs no digits.

    Attributes:
        count: how many rows.
        mean: their mean.
        scatter: sum over the rows of (row - mean)(row - mean)ᵀ.
    """

    count: int
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]

    @classmethod
    def zero(cls, width: int) -> "Moments":
        """No rows yet, of `width` numbers each."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    def update(self, batch: Float[Tensor, "b d"]) -> "Moments":
        """With the rows of a batch added, which may be empty.

        Raises:
            ValueError: the batch has another width.
        """
        if batch.shape[1] != len(self.mean):
            raise ValueError(f"expected rows of {len(self.mean)} numbers, got rows of {batch.shape[1]}")
        if not len(batch):
            return self
        rows = batch.detach().cpu().double().numpy()
        mean = rows.mean(0)
        rows = rows - mean
        return self.merge(Moments(len(rows), torch.from_numpy(mean), torch.from_numpy(rows.T @ rows)))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows.

        Raises:
            ValueError: the other's rows have another width.
        """
        if len(other.mean) != len(self.mean):
            raise ValueError(f"moments of {len(self.mean)} and of {len(other.mean)} numbers cannot be merged")
        if not self.count or not other.count:
            return self if other.count == 0 else other
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(shift, shift, alpha=self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), scatter)

    @property
    def cov(self) -> Float64[Tensor, "d d"]:
        """The unbiased covariance: scatter / (count - 1).

        Raises:
            ValueError: fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, and there are {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(
    mean1: Float64[Tensor, " d"],
    cov1: Float64[Tensor, "d d"],
    mean2: Float64[Tensor, " d"],
    cov2: Float64[Tensor, "d d"],
) -> float:
    """|mean1 - mean2|² + tr(cov1 + cov2 - 2 (cov1 cov2)^½) (Dowson and Landau, 1982; FID: arXiv 1706.08500, eq. 6).

    No matrix root is taken, since only its trace is asked for: see `trace_of_root`. What rounding leaves below 0 is 0.

    Raises:
        ValueError: the shapes differ, or a value is not finite.
    """
    d = len(mean1)
    if mean2.shape != (d,) or cov1.shape != (d, d) or cov2.shape != (d, d):
        shapes = ", ".join(str(list(part.shape)) for part in (mean1, cov1, mean2, cov2))
        raise ValueError(f"two means [d] and two covariances [d, d] are compared, not {shapes}")
    for name, part in {"mean1": mean1, "cov1": cov1, "mean2": mean2, "cov2": cov2}.items():
        if not part.isfinite().all():
            raise ValueError(f"{name} has {int((~part.isfinite()).sum())} values that are not finite")
    shift = mean1 - mean2
    distance = shift @ shift + cov1.trace() + cov2.trace()
    return max(0.0, float(distance) - 2 * trace_of_root(cov1, cov2))


def trace_of_root(cov1: Float64[Tensor, "d d"], cov2: Float64[Tensor, "d d"]) -> float:
    """tr (cov1 cov2)^½ of two covariances: the sum of the roots of the product's eigenvalues, which are not negative.

    With cov2 = LLᵀ the product has the eigenvalues of the symmetric Lᵀ cov1 L, which LAPACK's sygv finds at a fraction
    of the price of a root, or of the eigenvalues of the product. It needs a positive definite cov2, and an eigenvalue
    that is only rounding counts with its root, about 1e-8 where it should be 0. So where the smallest is within
    rounding, as with fewer rows than d, the work is done on factors instead: with cov = SSᵀ the sum is that of the
    singular values of S1ᵀS2, whose error is of the order of 1e-16.
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


def factor(cov: np.ndarray) -> np.ndarray:
    """S [d, r] with SSᵀ = cov, as thin as the rank: LAPACK's Cholesky factorisation with complete pivoting (pstrf)."""
    from scipy.linalg.lapack import dpstrf

    lower, order, rank, _ = dpstrf(cov, lower=1)
    factored = np.empty((len(cov), rank))
    factored[order - 1] = np.tril(lower)[:, :rank]
    return factored
