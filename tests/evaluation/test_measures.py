"""KID, CMMD, the distances between images, and variety: each restated plainly, or compared with the library."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from ediffi.evaluation.metrics import mmd
from ediffi.evaluation.metrics.manifold import manifold, nearest_real, radii_of
from ediffi.evaluation.metrics.mmd import cmmd, kid_influence
from ediffi.evaluation.metrics.variety import inception_score, vendi
from tests.evaluation.test_intervals import derivative, left_out, normal

GENERATED, REAL = normal(90, 6, 0, 0.9, 0.2), normal(120, 6, 1)


def apart(x: Tensor, y: Tensor) -> np.ndarray:
    return np.linalg.norm(x.double().numpy()[:, None] - y.double().numpy()[None], axis=2)


def to_neighbour(x: Tensor, number: int) -> np.ndarray:
    """The distance of each row to its k-th neighbour in its own set."""
    return np.sort(apart(x, x), 1)[:, number]


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    found, _ = manifold(GENERATED, REAL)
    wanted = prc_features_to_metric(GENERATED, REAL, prc_neighborhood=3, prc_batch_size=50, verbose=False)
    assert {name: found[name].value for name in ("precision", "recall", "f_score")} == pytest.approx(
        {name: float(wanted[name]) for name in ("precision", "recall", "f_score")}, rel=1e-6
    )


def test_density_and_coverage_are_those_of_their_paper_and_authenticity_of_its() -> None:
    found, nearest = manifold(GENERATED, REAL)
    across, radius = apart(REAL, GENERATED), to_neighbour(REAL, 5)
    assert found["density"].value == pytest.approx((across < radius[:, None]).sum(0).mean() / 5, rel=1e-6)
    assert found["coverage"].value == pytest.approx((across.min(1) < radius).mean(), rel=1e-6)
    authentic = to_neighbour(REAL, 1)[across.argmin(0)] < across.min(0)
    assert found["authenticity"].value == pytest.approx(authentic.mean(), rel=1e-6)
    np.testing.assert_array_equal(nearest.index, across.argmin(0))
    np.testing.assert_allclose(nearest.distance, across.min(0), rtol=1e-4)


def test_radii_of_real_images_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    radii, wanted = radii_of(REAL), manifold(GENERATED, REAL)[0]
    np.testing.assert_allclose(radii[:, 4], to_neighbour(REAL, 5), rtol=1e-4)
    monkeypatch.setattr("ediffi.evaluation.metrics.manifold.radii_of", None)
    assert {name: one.value for name, one in manifold(GENERATED, REAL, radii)[0].items()} == {
        name: one.value for name, one in wanted.items()
    }


def test_what_recall_and_coverage_lose_without_an_image_is_exact() -> None:
    x, y = normal(40, 3, 2, 0.7), normal(60, 3, 3)
    found, _ = manifold(x, y)
    for name in ("recall", "coverage"):
        plain = left_out(lambda rows, name=name: manifold(rows, y)[0][name].value, x)
        assert plain.std() > 0.1
        np.testing.assert_allclose(found[name].influence, plain, atol=1e-9)
    alone = left_out(lambda rows: manifold(rows, y)[0]["precision"].value, x)
    np.testing.assert_allclose(found["precision"].influence, alone, atol=1e-9)
    f_score = left_out(lambda rows: manifold(rows, y)[0]["f_score"].value, x)
    assert np.corrcoef(found["f_score"].influence, f_score)[0, 1] > 0.99


def test_copies_are_not_authentic_and_what_is_missing_is_seen() -> None:
    copies, nearest = manifold(REAL + 1e-4, REAL)
    assert copies["authenticity"].value == 0
    np.testing.assert_array_equal(nearest.index, np.arange(120))
    narrow = REAL * torch.tensor([1, 1, 1, 1, 1, 0.1])
    found, _ = manifold(narrow, REAL)
    assert found["recall"].value < found["precision"].value
    with pytest.raises(ValueError, match="at least 6 images in each set, got 5 and 120"):
        manifold(GENERATED[:5], REAL)


def test_the_nearest_real_image_is_found_without_all_distances_of_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ediffi.evaluation.metrics.manifold.ROWS", 7)
    found, wanted = nearest_real(GENERATED, REAL), manifold(GENERATED, REAL)[1]
    np.testing.assert_array_equal(found.index, wanted.index)
    np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-5)
    np.testing.assert_allclose(found.spacing, wanted.spacing, rtol=1e-5)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = manifold(GENERATED, REAL)
    monkeypatch.setattr("ediffi.evaluation.metrics.manifold.ROWS", 7)
    parts, _ = manifold(GENERATED, REAL)
    for name, one in whole.items():
        assert parts[name].value == one.value
        np.testing.assert_array_equal(parts[name].influence, one.influence)


def test_cmmd_is_that_of_the_authors_formula() -> None:
    """Restated from the definition: means of exp(-|x - y|² / 200) of rows of length 1, the diagonal with them."""
    x, y = (part.double().numpy() for part in (GENERATED, REAL))
    x, y = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-np.square(a[:, None] - b[None]).sum(2) / (2 * 10**2))

    wanted = 1000 * (kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())
    found = cmmd(GENERATED, REAL)
    assert found.value == pytest.approx(wanted, rel=1e-6)
    assert cmmd(REAL, REAL).value == pytest.approx(0, abs=1e-9)

    def weighted(weights: np.ndarray) -> float:
        w = weights / weights.sum()
        return 1000 * (w @ kernel(x, x) @ w + kernel(y, y).mean() - 2 * (w @ kernel(x, y)).mean())

    np.testing.assert_allclose(found.influence, derivative(weighted, len(x)), rtol=1e-5, atol=1e-7)


def test_the_influence_on_kid_is_the_plain_jackknife(monkeypatch: pytest.MonkeyPatch) -> None:
    def unbiased(rows: Tensor) -> float:
        x, y = rows.double(), REAL.double()
        own, other, across = mmd.cubic(x, x), mmd.cubic(y, y), mmd.cubic(x, y).mean()
        means = [(part.sum() - part.trace()) / (len(part) * (len(part) - 1)) for part in (own, other)]
        return float(sum(means) - 2 * across)

    found, plain = kid_influence(GENERATED, REAL), left_out(unbiased, GENERATED)
    np.testing.assert_allclose(found, plain, rtol=0.03, atol=0.03 * plain.std())
    monkeypatch.setattr(mmd, "COLUMNS", 60)  # then of some columns only
    some = kid_influence(GENERATED, REAL)
    assert np.corrcoef(some, found)[0, 1] > 0.95
    assert some.std() == pytest.approx(found.std(), rel=0.2)


def test_the_vendi_score_counts_different_images() -> None:
    x = GENERATED.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)

    def by_similarities(weights: np.ndarray) -> float:
        root = np.sqrt(weights / weights.sum())[:, None]
        values = np.linalg.eigvalsh(root * (x @ x.T) * root.T)
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    found = vendi(GENERATED)
    assert found.value == pytest.approx(by_similarities(np.ones(90)), rel=1e-6)
    np.testing.assert_allclose(found.influence, derivative(by_similarities, 90), rtol=1e-4, atol=1e-6)
    assert vendi(torch.ones(5, 3)).value == pytest.approx(1)
    assert vendi(torch.eye(4).repeat(3, 1)).value == pytest.approx(4)


def test_the_inception_score_is_that_of_torch_fidelity() -> None:
    head = normal(11, 6, 5)
    found = inception_score(GENERATED, head)
    wanted = isc_features_to_metric(GENERATED.double() @ head.double().T, splits=1, shuffle=False)
    assert found.value == pytest.approx(wanted["inception_score_mean"], rel=1e-6)
    p = (GENERATED.double() @ head.double().T).softmax(1).numpy()

    def weighted(weights: np.ndarray) -> float:
        w = weights / weights.sum()
        return float(np.exp((w[:, None] * p * (np.log(p) - np.log(w @ p))).sum()))

    np.testing.assert_allclose(found.influence, derivative(weighted, 90), rtol=1e-4, atol=1e-6)
