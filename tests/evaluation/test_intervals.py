"""Intervals: influences against derivatives and plain resampling, coverage on Gaussians, false positives of pairs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ediffi.evaluation.metrics import paired
from ediffi.evaluation.metrics.frechet import Moments, frechet_distance, frechet_infinity, frechet_influence
from ediffi.evaluation.metrics.intervals import (
    Measure,
    bootstrap,
    by_unit,
    difference,
    intervals,
    mean,
    units_of,
)

REPETITIONS = 1000


def normal(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal((count, width)) * scale + shift).astype(np.float32))


def derivative(metric: Callable[[np.ndarray], float], count: int, step: float = 1e-4) -> np.ndarray:
    """n times the derivative of a metric of weights [n] (which are 1) by each weight, weights kept to their sum."""

    def at(index: int, change: float) -> float:
        weights = np.ones(count)
        weights[index] += change
        return metric(weights * count / weights.sum())

    return np.array([(at(k, step) - at(k, -step)) / (2 * step) for k in range(count)]) * count


def left_out(metric: Callable[[Tensor], float], rows: Tensor) -> np.ndarray:
    """n - 1 times what leaving out each row takes from a metric, less the mean: the plain jackknife."""
    whole, every = metric(rows), torch.arange(len(rows))
    moved = (len(rows) - 1) * np.array([whole - metric(rows[every != k]) for k in range(len(rows))])
    return moved - moved.mean()


def moments_of(rows: Tensor) -> Moments:
    return Moments.zero(rows.shape[1]).update(rows)


def frechet(rows: Tensor, real: Moments) -> Measure:
    moments = moments_of(rows)
    value = frechet_distance(moments.mean, moments.cov, real.mean, real.cov)
    return Measure(value, frechet_influence(rows, moments, real.mean, real.cov))


@pytest.mark.parametrize("count", [40, 12])
def test_the_influence_on_a_frechet_distance_is_its_derivative(count: int) -> None:
    rows, real = normal(count, 6, 0, 1.4, 0.5), moments_of(normal(60, 6, 1))

    def weighted(weights: np.ndarray) -> float:
        x, w = rows.double().numpy(), weights / weights.sum()
        centre = w @ x
        cov = ((x - centre).T * w) @ (x - centre) * count / (count - 1)
        return frechet_distance(torch.from_numpy(centre), torch.from_numpy(cov), real.mean, real.cov)

    np.testing.assert_allclose(frechet(rows, real).influence, derivative(weighted, count), rtol=1e-4, atol=1e-5)


def test_the_influence_on_a_frechet_distance_does_not_need_a_reference_of_full_rank() -> None:
    rows, real = normal(30, 6, 0, 1.4), moments_of(normal(4, 6, 1))
    found, plain = frechet(rows, real).influence, left_out(lambda x: frechet(x, real).value, rows)
    assert np.corrcoef(found, plain)[0, 1] > 0.99
    with pytest.raises(ValueError, match="needs more than 6 rows, got 6"):
        frechet(rows[:6], real)


def test_the_interval_of_a_frechet_distance_is_that_of_the_plain_bootstrap() -> None:
    rows, real = normal(400, 8, 2, 1.2, 0.3), moments_of(normal(500, 8, 3))
    measure, rng = frechet(rows, real), np.random.default_rng(0)
    plain = [frechet(rows[rng.integers(0, 400, 400)], real).value for _ in range(600)]
    assert bootstrap(measure.influence[:, None]).std() == pytest.approx(np.std(plain), rel=0.1)


def test_the_distance_of_infinitely_many_images_has_less_bias() -> None:
    cov, zero = torch.eye(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    few, many = [], []
    for seed in range(40):
        rows = normal(200, 12, seed, 1.3)
        moments = moments_of(rows)
        few.append(frechet_distance(moments.mean, moments.cov, zero, cov))
        many.append(frechet_infinity(rows, zero, cov))
    true = 12 * 0.3**2
    assert np.mean(few) > true + 0.15
    assert np.mean(many) == pytest.approx(true, abs=0.05)
    assert np.std(many) < 1.2 * np.std(few)  # the extrapolation adds no noise
    assert np.isnan(frechet_infinity(normal(95, 12, 0), zero, cov))


def test_intervals_cover_in_95_of_100_repetitions() -> None:
    """Of a mean, of yes and no, and of a Fréchet distance: its expectation at this count, and at infinitely many."""
    rng, real = np.random.default_rng(0), moments_of(normal(3000, 3, 9))
    count, truth = 150, {"mean": 0.5, "share": 0.7}
    found: list[dict[str, tuple[float, float]]] = []
    values = []
    for seed in range(REPETITIONS):
        rows = normal(count, 3, 10_000 + seed, 1.3, 0.4)
        distance = frechet(rows, real)
        values.append(distance.value)
        measures = {
            "mean": mean(rng.exponential(0.5, count)),
            "share": mean((rng.random(count) < 0.7).astype(float)),
            "fid": distance,
            "fid_infinity": Measure(frechet_infinity(rows, real.mean, real.cov), distance.influence),
        }
        found.append(intervals(measures, np.arange(count), draws=400))
    true_mean, true_cov = torch.full((3,), 0.4, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 1.3**2
    truth["fid_infinity"] = frechet_distance(true_mean, true_cov, real.mean, real.cov)
    truth["fid"] = float(np.mean(values))
    for name, true in truth.items():
        covered = np.mean([low <= true <= high for low, high in (one[name] for one in found)])
        assert 0.93 <= covered <= 0.97, (name, covered)


def test_a_pair_of_equally_good_systems_differs_in_one_of_20() -> None:
    """Captions are of their own difficulty, which both systems share; so the pair is much surer than each alone."""
    rng, count = np.random.default_rng(1), 120
    p_values, widths = [], []
    for _ in range(REPETITIONS):
        hard = rng.standard_normal(count) * 3
        one, other = (mean(hard + rng.standard_normal(count)) for _ in range(2))
        found = difference(one, other, np.arange(count), draws=100)
        p_values.append(found.p_value)
        ((low, high),) = intervals({"x": one}, np.arange(count), draws=100).values()
        widths.append((found.high - found.low) / (high - low))
    assert 0.035 <= np.mean(np.array(p_values) < 0.05) <= 0.065
    assert np.median(widths) < 0.6


def test_a_difference_is_seen_and_its_sign_is_that_of_the_first() -> None:
    rng = np.random.default_rng(2)
    hard = rng.standard_normal(300) * 3
    better, worse = mean(hard + 0.5 + rng.standard_normal(300)), mean(hard + rng.standard_normal(300))
    found, back = difference(better, worse, np.arange(300)), difference(worse, better, np.arange(300))
    assert found.clear
    assert found.p_value < 1e-4
    assert found.low < found.value < found.high
    assert (back.value, back.p_value) == (-found.value, found.p_value)
    same = difference(worse, worse, np.arange(300))
    assert (same.value, same.p_value, same.clear) == (0, 1, False)


def test_images_of_one_caption_are_drawn_together() -> None:
    """Each image twice says no more than once."""
    values = np.random.default_rng(3).standard_normal(200)
    captions = [f"caption {k}" for k in range(200)]
    once = intervals({"x": mean(values)}, units_of(captions))["x"]
    twice = intervals({"x": mean(np.repeat(values, 2))}, units_of([c for c in captions for _ in "ab"]))["x"]
    alone = intervals({"x": mean(np.repeat(values, 2))}, np.arange(400))["x"]
    assert twice[1] - twice[0] == pytest.approx(once[1] - once[0], rel=0.05)
    assert alone[1] - alone[0] < 0.8 * (once[1] - once[0])
    influence = mean(values).influence
    np.testing.assert_allclose(by_unit(influence, np.arange(200)), influence)


def test_a_mean_leaves_out_what_does_not_apply_and_a_share_stays_a_share() -> None:
    values = np.array([1, np.nan, 0, 1, 1, np.nan] * 30, float)
    measure = mean(values)
    known = values[~np.isnan(values)]
    assert measure.value == known.mean()
    ((low, high),) = intervals({"x": measure}, np.arange(len(values))).values()
    error = known.std(ddof=1) / np.sqrt(len(known))
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert 0 < low < high < 1
    assert np.isnan(mean(np.array([np.nan])).value)
    assert intervals({"x": mean(np.array([np.nan, np.nan]))}, np.arange(2)) == {}


def test_intervals_stay_where_the_metric_can_be() -> None:
    units, moved = np.arange(50), np.where(np.arange(50) < 2, 1.0, 0) - 0.04
    found = intervals({"recall": Measure(0.99, moved, 0, 1), "free": Measure(0.99, moved)}, units)
    assert found["recall"][1] == 1 < found["free"][1]
    assert found["recall"][0] == found["free"][0]


def test_a_share_of_all_images_is_not_certain() -> None:
    """Clopper and Pearson's end is the share of which 40 of 40 have a probability of 2.5 %."""
    found = intervals({"all": mean(np.ones(40)), "none": mean(np.zeros(40))}, np.arange(40))
    low, high = found["all"]
    assert (low**40, high) == (pytest.approx(0.025), 1)
    assert found["none"] == (0, pytest.approx(1 - low))
    assert intervals({"score": mean(np.full(40, 31.5))}, np.arange(40)) == {"score": (31.5, 31.5)}
    assert mean(np.array([1, np.nan, 1])) == Measure(1)


def test_wrong_input_is_one_sentence() -> None:
    one = mean(np.arange(4.0))
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        intervals({"x": one}, np.arange(4), 95)
    with pytest.raises(ValueError, match="at least 2 captions"):
        intervals({"x": one}, np.zeros(4, int))
    with pytest.raises(ValueError, match="equally many images of both systems"):
        difference(one, mean(np.arange(3.0)), np.arange(4))


def test_systems_are_compared_from_what_their_evaluations_left(tmp_path: Path) -> None:
    rng, units = np.random.default_rng(4), np.arange(50)
    one, other = mean(rng.random(50)), mean(rng.random(50))
    for name, measure in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        paired.write(tmp_path / name, {"clip_score": measure, "kid_std": Measure(0.1)}, units, "of these captions")
    found = paired.differences(tmp_path / "one", tmp_path / "other")
    assert found == {"clip_score": difference(one, other, units)}
    paired.write(tmp_path / "other", {"clip_score": other}, units, "of others")
    with pytest.raises(ValueError, match="are of different captions"):
        paired.differences(tmp_path / "one", tmp_path / "other")
    content = bytearray((tmp_path / "other" / paired.FILE).read_bytes())
    content[-3] ^= 2
    (tmp_path / "other" / paired.FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"influences.safetensors is broken \(it was changed\)"):
        paired.read(tmp_path / "other")
    (tmp_path / "other" / paired.FILE).write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match=r"influences.safetensors is broken"):
        paired.differences(tmp_path / "one", tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="the same `ediffi evaluate` command writes it"):
        paired.differences(tmp_path / "one", tmp_path / "nowhere")
