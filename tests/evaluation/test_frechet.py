"""Moments and the Fréchet distance: closed forms, then three independent implementations, full rank and not."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group
from torch import Tensor

from ediffi.evaluation.metrics.frechet import Moments, factor, frechet_distance, trace_of_root
from ediffi.evaluation.metrics.kid import kid


def features(count: int, width: int, seed: int = 0, shared: float = 0.3) -> Tensor:
    """Rows like a network's: of very different scales, correlated, cut off below, far from 0."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((count, 8)) @ np.random.default_rng(9).standard_normal((8, width))
    rows = rng.standard_normal((count, width)) * 10 ** np.linspace(0, -2, width) + shared * common
    return torch.from_numpy(np.maximum(rows, -0.2 + 0.01 * seed).astype(np.float32)) + 0.5


def distance(first: Tensor, second: Tensor) -> float:
    a, b = (Moments.zero(rows.shape[1]).update(rows) for rows in (first, second))
    return frechet_distance(a.mean, a.cov, b.mean, b.cov)


def by_pytorch_fid(a: Any, b: Any) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    return float(calculate_frechet_distance(*a, *b))


def by_clean_fid(a: Any, b: Any) -> float:
    from cleanfid.fid import frechet_distance as theirs

    return float(theirs(*a, *b))


def by_torch_fidelity(a: Any, b: Any) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    stats = [{"mu": mean, "sigma": cov} for mean, cov in (a, b)]
    return float(fid_statistics_to_metric(*stats, verbose=False)[KEY_METRIC_FID])


PEERS = [by_pytorch_fid, by_clean_fid, by_torch_fidelity]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 6))
def test_moments_do_not_depend_on_the_batches(sizes: list[int], cut: int) -> None:
    rows = features(sum(sizes) + 2, 12)
    batches = list(rows.split([*sizes, 2]))
    one, other = Moments.zero(12), Moments.zero(12)
    for batch in batches[:cut]:
        one = one.update(batch)
    for batch in batches[cut:]:
        other = other.update(batch)
    found = one.merge(other)
    assert found.count == len(rows)
    torch.testing.assert_close(found.mean, rows.double().mean(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.cov, torch.from_numpy(np.cov(rows.double().numpy().T)), rtol=1e-11, atol=1e-13)


def test_a_mean_far_away_costs_no_digits() -> None:
    """Sums of squares would have lost all of them: 1e16 + 1 is 1e16 in float64."""
    rows = torch.randn(500, 5, dtype=torch.float64)
    moments = Moments.zero(5)
    for batch in (rows + 1e8).split(64):
        moments = moments.update(batch)
    torch.testing.assert_close(moments.cov, rows.T.cov(), rtol=1e-6, atol=1e-6)


def test_moments_are_values() -> None:
    moments = Moments.zero(3).update(torch.randn(4, 3))
    before = moments.scatter.clone(), moments.mean.clone()
    moments.update(torch.randn(4, 3))
    moments.merge(moments)
    assert torch.equal(moments.scatter, before[0])
    assert torch.equal(moments.mean, before[1])


@pytest.mark.parametrize(("count", "width"), [(400, 32), (20, 32)])
def test_equal_sets_have_no_distance(count: int, width: int) -> None:
    rows = features(count, width)
    assert 0 <= distance(rows, rows) < 1e-10


@pytest.mark.parametrize("count", [400, 20])
def test_shifted_sets_are_apart_by_the_square_of_the_shift(count: int) -> None:
    rows, shift = features(count, 32).double(), torch.linspace(-1, 2, 32, dtype=torch.float64)
    assert distance(rows, rows + shift) == pytest.approx(float(shift @ shift), rel=1e-11)


def test_a_scaled_set_has_a_closed_form() -> None:
    """cov2 = s² cov1, mean2 = s mean1: (s - 1)² (|mean|² + tr cov)."""
    rows = features(500, 24).double()
    moments = Moments.zero(24).update(rows)
    wanted = 0.25 * (moments.mean @ moments.mean + moments.cov.trace())
    assert distance(rows, 1.5 * rows) == pytest.approx(float(wanted), rel=1e-12)


@given(st.integers(0, 2**31), st.integers(0, 12), st.integers(0, 12))
def test_commuting_covariances_have_a_closed_form(seed: int, zeros1: int, zeros2: int) -> None:
    """In one eigenbasis tr (cov1 cov2)^½ = sum of the roots of the products of the eigenvalues, zeros or not."""
    rng = np.random.default_rng(seed)
    basis = ortho_group.rvs(16, random_state=seed % 1000)
    one, two = 10 ** rng.uniform(-3, 1, (2, 16))
    one[:zeros1], two[16 - zeros2 :] = 0, 0
    covs = [torch.from_numpy(basis * values @ basis.T) for values in (one, two)]
    assert trace_of_root(*covs) == pytest.approx(np.sqrt(one * two).sum(), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("rows", "rank"), [(100, 40), (25, 24), (2, 1)])
def test_a_factor_is_as_thin_as_the_rank(rows: int, rank: int) -> None:
    cov = np.cov(features(rows, 40).double().numpy().T)
    root = factor(cov)
    assert root.shape == (40, rank)
    np.testing.assert_allclose(root @ root.T, cov, atol=1e-13)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("first", "second"), [(700, 600), (40, 600), (600, 40), (40, 30)])
def test_three_others_agree(peer: Callable[..., float], first: int, second: int) -> None:
    a, b = features(first, 256, 1).double().numpy(), features(second, 256, 2).double().numpy()
    wanted = peer(*((rows.mean(0), np.cov(rows, rowvar=False)) for rows in (a, b)))
    assert distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("first", "second"), [(700, 600), (40, 600), (40, 30)])
def test_the_rank_costs_no_digits(first: int, second: int) -> None:
    """Against the singular values of the centred rows themselves: no covariance, and so no root of a rounding error."""
    a, b = features(first, 256, 1).double(), features(second, 256, 2).double()
    centred = [(rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (a, b)]
    root = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    wanted = (a.mean(0) - b.mean(0)).square().sum() + sum(part.square().sum() for part in centred) - 2 * root
    assert distance(a, b) == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(2500, 2600), (300, 2500), (300, 200)])
def test_three_others_agree_at_full_width(first: int, second: int) -> None:
    """Where the rank is not full, theirs are off by roots of rounding errors: by 4e-6 with shared=0.3."""
    a = features(first, 2048, 1, shared=0.05).double().numpy()
    b = features(second, 2048, 2, shared=0.05).double().numpy()
    stats = [(rows.mean(0), np.cov(rows, rowvar=False)) for rows in (a, b)]
    found = distance(torch.from_numpy(a), torch.from_numpy(b))
    for peer in PEERS:
        assert found == pytest.approx(peer(*stats), rel=1e-6)


def test_torchmetrics_agrees() -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = (Moments.zero(64).update(features(500, 64, seed)) for seed in (1, 2))
    theirs = _compute_fid(a.mean, a.cov, b.mean, b.cov)
    assert frechet_distance(a.mean, a.cov, b.mean, b.cov) == pytest.approx(float(theirs), rel=1e-8)


def test_what_cannot_be_compared_is_named() -> None:
    moments = Moments.zero(3).update(torch.randn(9, 3))
    mean, cov = moments.mean, moments.cov
    with pytest.raises(ValueError, match="cov2 has 1 values that are not finite"):
        frechet_distance(
            mean,
            cov,
            mean,
            cov.clone().index_put_((torch.tensor(0), torch.tensor(1)), torch.tensor(torch.nan).double()),
        )
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        Moments.zero(3).update(torch.randn(1, 3)).cov  # noqa: B018
    with pytest.raises(ValueError, match="of 3 and 4 numbers"):
        moments.update(torch.randn(2, 4))
    with pytest.raises(ValueError, match="of 3 and 4 numbers"):
        moments.merge(Moments.zero(4))


def test_kid_is_unbiased_and_repeats() -> None:
    a, b = features(300, 16, 1), features(300, 16, 2)
    assert kid(a, b, 100) == kid(a, b, 100)
    near, far = kid(a, features(250, 16, 1)[:250] + 0, 100), kid(a, b + 3, 100)
    assert abs(near["kid_mean"]) < 0.05 * far["kid_mean"]
    assert math.isfinite(kid(a[:40], b)["kid_std"])  # subsets of 40: all of one set, and 40 of the other
    assert math.isnan(kid(a[:40], b[:40])["kid_std"])  # every subset is all images


def test_kid_is_torch_fidelitys_own() -> None:
    """Its subsets too: with its own seed."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = features(300, 16, 1), features(250, 16, 2)
    wanted = kid_features_to_metric(a, b, kid_subset_size=100, verbose=False)
    assert list(kid(a, b, 100).values()) == list(wanted.values())


def test_too_few_pictures_are_refused() -> None:
    rows = torch.randn(3, 4)
    with pytest.raises(ValueError, match="at least 2 images in each set, got 1 and 3"):
        kid(rows[:1], rows)
