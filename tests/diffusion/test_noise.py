"""Noise intervals: edges against scipy, draws against the distribution, partitions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ediffi.diffusion.noise import (
    ROOT,
    Complement,
    Interval,
    LogNormal,
    NoiseInterval,
    check_partition,
    contains,
    interval_from,
    overlap,
)

NOISE = LogNormal(-1.2, 1.2)
LOW, HIGH = Interval(3, 0), Interval(9, 511)
MIDDLE = Complement((LOW, HIGH))
TREE = [Interval(level, index) for level in range(4) for index in range(2**level)]
ODD = Complement((Interval(2, 1), Interval(3, 6)))
REGIONS = [*TREE, HIGH, Interval(9, 510), MIDDLE, ODD]


def sorted_spans(regions: list[NoiseInterval]) -> list[tuple[Fraction, Fraction]]:
    return sorted(span for region in regions for span in region.spans)


def truncated_cdf(region: NoiseInterval, sigma: np.ndarray) -> np.ndarray:
    """Independent of the code: share of the region's noise below `sigma`, from scipy's normal distribution."""
    q = stats.norm.cdf(np.log(sigma), NOISE.mean, NOISE.std)
    spans = [(float(low), float(high)) for low, high in region.spans]
    return sum(np.clip(q, low, high) - low for low, high in spans) / sum(high - low for low, high in spans)


@pytest.mark.parametrize(
    "region", [HIGH, LOW, Interval(9, 510), Interval(9, 0), Interval(3, 1), Interval(3, 7), MIDDLE, ODD], ids=str
)
def test_edges_are_scipys(region: NoiseInterval) -> None:
    for (low, high), (first, last) in zip(region.spans, NOISE.bounds(region), strict=True):
        expected = stats.lognorm.ppf([float(low), float(high)], s=NOISE.std, scale=math.exp(NOISE.mean))
        assert [first, last] == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_papers_leaves() -> None:
    assert NOISE.bounds(HIGH)[0] == (pytest.approx(9.6096, abs=1e-4), math.inf)
    assert NOISE.bounds(LOW)[0] == (0, pytest.approx(0.075742, abs=1e-6))
    assert NOISE.bounds(MIDDLE) == [(NOISE.bounds(LOW)[0][1], NOISE.bounds(HIGH)[0][0])]


@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_draws_have_the_truncated_distribution(region: NoiseInterval) -> None:
    sigma = NOISE.sample(4000, torch.Generator().manual_seed(7), region).double().numpy()
    assert stats.kstest(sigma, lambda s: truncated_cdf(region, s)).pvalue > 1e-3
    inside = [(sigma >= low * (1 - 1e-6)) & (sigma <= high * (1 + 1e-6)) for low, high in NOISE.bounds(region)]
    assert np.logical_or.reduce(inside).all()


def test_the_test_of_draws_can_fail() -> None:
    sigma = NOISE.sample(4000, torch.Generator().manual_seed(7), Interval(2, 1)).double().numpy()
    shifted = stats.kstest(sigma * 1.02, lambda s: truncated_cdf(Interval(2, 1), s))
    assert shifted.pvalue < 1e-3


def test_a_random_number_of_zero_gives_the_lowest_noise_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.rand` may return 0, the quantile of noise level 0; the least number in its place is 2^-53."""
    monkeypatch.setattr(torch, "rand", lambda *args, **options: torch.zeros(1, dtype=torch.float64))
    sigma = float(LogNormal().sample(1))
    assert sigma == pytest.approx(math.exp(-1.2 + 1.2 * stats.norm.ppf(2.0**-53)), rel=1e-6)


@pytest.mark.parametrize("region", [ROOT, Interval(9, 511), Interval(1, 0), Complement((Interval(3, 0),))], ids=str)
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.0, 40.0)])
@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_no_random_number_gives_a_noise_level_of_zero_or_infinity(
    number: float, mean: float, std: float, region: NoiseInterval, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest number below 1, added to 511/512, rounds to 1, whose noise level is infinite."""
    monkeypatch.setattr(torch, "rand", lambda *args, **options: torch.full((1,), number, dtype=torch.float64))
    noise = LogNormal(mean, std)
    sigma = noise.sample(1, region=region)
    assert sigma > 0
    assert sigma.isfinite()
    bounds = torch.tensor(noise.bounds(region)).float().clamp(max=torch.finfo(torch.float32).max)
    assert ((bounds[:, 0] <= sigma) & (sigma <= bounds[:, 1])).any()


def test_draws_are_repeated_by_their_generator() -> None:
    one, two = (NOISE.sample(5, torch.Generator().manual_seed(3), MIDDLE) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.float32


def test_deep_nodes_keep_apart() -> None:
    level = 30
    neighbours = [Interval(level, 2**level - 2), Interval(level, 2**level - 1)]
    (_, edge), (also, top) = (NOISE.bounds(node)[0] for node in neighbours)
    assert edge == also
    assert top == math.inf
    drawn = NOISE.sample(1000, torch.Generator().manual_seed(0), neighbours[0])
    assert drawn.max() <= edge * (1 + 1e-6)
    assert drawn.unique().numel() > 500


@pytest.mark.parametrize(("level", "index"), [(-1, 0), (31, 0), (3, 8), (3, -1), (0, 1)])
def test_a_node_that_does_not_exist_is_named(level: int, index: int) -> None:
    with pytest.raises(
        ValueError, match=rf"(level|index) of a noise interval must be .*got {index if level == 3 else ''}"
    ):
        Interval(level, index)


def test_children_are_halves() -> None:
    one, two = Interval(3, 5).children
    assert (one, two) == (Interval(4, 10), Interval(4, 11))
    assert one.spans + two.spans == ((Fraction(5, 8), Fraction(11, 16)), (Fraction(11, 16), Fraction(3, 4)))


def test_a_complement_is_the_rest() -> None:
    assert MIDDLE.spans == ((Fraction(1, 8), Fraction(511, 512)),)
    assert Complement((HIGH, LOW)) == MIDDLE, "order does not matter"
    assert len(ODD.spans) == 3
    check_partition([ODD, *ODD.without])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "at least one"),
        ((Interval(1, 0), Interval(2, 1)), r"\(1, 0\) and \(2, 1\) overlap"),
        ((LOW, LOW), r"\(3, 0\) and \(3, 0\) overlap"),
        ((Interval(1, 0), Interval(1, 1)), "leave no noise"),
    ],
)
def test_a_complement_that_is_none_is_named(nodes: tuple[Interval, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Complement(nodes)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([Interval(1, 0)], "no expert owns the noise quantiles 1/2 to 1, after"),
        ([Interval(1, 1)], "no expert owns the noise quantiles 0 to 1/2, between the beginning and"),
        ([Interval(1, 0), Interval(2, 3)], "no expert owns the noise quantiles 1/2 to 3/4"),
        ([Interval(1, 0), Interval(2, 1), Interval(1, 1)], r"\(1, 0\) and \(2, 1\) overlap"),
        ([ROOT, ROOT], "overlap: both own quantiles 0 to 1"),
        ([], "no expert owns"),
    ],
)
def test_gaps_and_overlaps_are_named(regions: list[NoiseInterval], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_partition(regions)


@st.composite
def forests(draw: st.DrawFn) -> list[Interval]:
    """The leaves of a random binary tree."""
    leaves = [ROOT]
    for choice in draw(st.lists(st.integers(0, 10**6), max_size=8)):
        leaf = leaves.pop(choice % len(leaves))
        leaves += leaf.children
    return leaves


@given(forests(), st.data())
def test_leaves_partition_the_noise(leaves: list[Interval], data: st.DataObject) -> None:
    check_partition(leaves)
    some = data.draw(st.lists(st.sampled_from(leaves), min_size=1, unique=True))
    rest = [leaf for leaf in leaves if leaf not in some]
    if rest:
        whole = Complement(tuple(rest))
        check_partition([whole, *rest])
        assert all(contains(whole, leaf) for leaf in some)
        assert not any(overlap(whole, leaf) or contains(whole, leaf) for leaf in rest)
    sigma = data.draw(st.floats(1e-3, 1e3))
    owners = [leaf for leaf in leaves for low, high in NOISE.bounds(leaf) if low <= sigma < high]
    assert len(owners) == 1


@pytest.mark.parametrize("region", [HIGH, MIDDLE], ids=str)
def test_regions_come_back_from_plain_values(region: NoiseInterval) -> None:
    import dataclasses
    import json

    assert interval_from(json.loads(json.dumps(dataclasses.asdict(region)))) == region


@pytest.mark.parametrize("content", [{"level": 1}, {"without": 3}, {"nothing": 1}, {"without": [], "level": 1}, 7])
def test_what_is_no_region_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="interval"):
        interval_from(content)
