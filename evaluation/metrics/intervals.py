"""How sure a number is: intervals of metrics, and of the difference of two systems on the same captions.

Each metric says how much each image moves it: its influence, the derivative of the metric with respect to the weight of
the image. For a mean this is the image's value less the mean; for a Fréchet distance, KID, Vendi or Inception score it
has a closed form; recall and coverage have the exact effect of leaving the image out (the jackknife). The bootstrap
then draws captions again and sums influences, which is exact for means and to first order for the rest (Efron and
Tibshirani, 1993, chapters 20 and 22), and needs no eigenvalues: seconds for 30,000 images and all metrics.

The images are what varies: the reference is that of the protocol. Images of one caption are drawn together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erfc, inf, sqrt
from typing import Final, NamedTuple

import numpy as np

LEVEL: Final = 0.95
DRAWS: Final = 2000
SEED: Final = 2020
FEW: Final = 100
"""Intervals of fewer captions are rough, which a notice says."""
METHOD: Final = f"bootstrap of the images' influences over captions, {DRAWS} draws, seed {SEED}; the reference is fixed"
"""Of images without captions, "captions" is "images"."""


class Measure(NamedTuple):
    """A metric of images, and the influence of each image [n] on it; None if its interval is not known.

    An interval stays within `least` and `most`, which the metric cannot pass.
    """

    value: float
    influence: np.ndarray | None = None
    least: float = -inf
    most: float = inf


@dataclass(frozen=True)
class Difference:
    """How much a metric of one system is above that of another, on the same captions."""

    value: float
    low: float
    high: float
    p_value: float  # two-sided: of so large a difference between systems that are equally good

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def mean(values: np.ndarray) -> Measure:
    """The mean of the images' values [n], of those that are not nan; nan if there are none.

    A share that is 0 or 1 in every image that it applies to, but does not apply to all, has no interval.
    """
    known = ~np.isnan(values)
    if not known.any():
        return Measure(float("nan"))
    average, least, most = (float(found) for found in (values[known].mean(), values[known].min(), values[known].max()))
    if np.isin(values[known], (0, 1)).all():
        least, most = 0.0, 1.0
        if average in (least, most) and not known.all():
            return Measure(average)
    return Measure(average, np.where(known, values - average, 0) * (len(values) / known.sum()), least, most)


def pair_mean(values: np.ndarray, partner: np.ndarray) -> Measure:
    """The mean over pairs, image k with image `partner[k]` in circles, of their values [n], of those that are not nan.

    An image is in two pairs, and moves the mean by what both are above it. The influences are scaled to the variance of
    such a mean, v + 2c, where images with this sum would have 2v + 2c; v is the variance of a pair's value and c the
    covariance of two pairs that share an image (Hoeffding, 1948, section 5).
    """
    known = ~np.isnan(values)
    if not known.any():
        return Measure(float("nan"))
    average = float(values[known].mean())
    moved = np.where(known, values - average, 0) * (len(values) / known.sum())
    second = np.zeros_like(moved)
    second[partner[known]] = moved[known]
    v = float(np.square(moved).mean())
    c = min(max(float((moved * second).mean()), 0.0), v / 2)
    return Measure(average, (moved + second) * (sqrt((v + 2 * c) / (2 * v + 2 * c)) if v else 1.0), least=0)


def units_of(captions: Sequence[str]) -> np.ndarray:
    """The number of each image's caption [n]: equal captions have the same."""
    return np.unique(np.asarray(captions, dtype=object), return_inverse=True)[1]


def by_unit(influence: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Influences of captions [m], or of captions by metrics [m, k], from those of images [n] or [n, k]; their mean is
    the mean over images."""
    number, sums = int(units.max()) + 1, np.zeros((int(units.max()) + 1, *influence.shape[1:]))
    np.add.at(sums, units, influence)
    return sums * (number / len(influence))


def bootstrap(influence: np.ndarray, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Deviations [draws, k] of metrics whose captions, with these influences [m, k], are drawn with replacement."""
    count, rng = len(influence), np.random.default_rng(seed)
    centred = influence - influence.mean(0)
    found = np.empty((draws, influence.shape[1]))
    block = max(1, 4_000_000 // count)
    for start in range(0, draws, block):
        drawn = rng.integers(0, count, (min(block, draws - start), count))
        drawn += count * np.arange(len(drawn))[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        found[start : start + block] = times @ centred / count
    return found * sqrt(count / max(1, count - 1))


def intervals(
    measures: Mapping[str, Measure], units: np.ndarray, level: float = LEVEL, draws: int = DRAWS
) -> dict[str, tuple[float, float]]:
    """The low and the high end of each metric's interval; none of a metric whose influences are not known.

    `units` [n] are the numbers of the images' captions. A share of 0 or 1 in all images, which no draw changes, gets
    the interval of Clopper and Pearson (1934). ValueError: fewer than two captions, or a level that is none.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if units.max() < 1:
        raise ValueError("an interval needs images of at least 2 captions, and there is 1")
    known = {name: one.influence for name, one in measures.items() if one.influence is not None}
    if not known:
        return {}
    moved = bootstrap(by_unit(np.stack(list(known.values()), 1), units), draws)
    low, high = np.quantile(moved, ((1 - level) / 2, (1 + level) / 2), axis=0)
    found = {}
    for name, below, above in zip(known, low.tolist(), high.tolist(), strict=True):
        value, _, least, most = measures[name]
        found[name] = max(least, value + below), min(most, value + above)
        if (least, most) == (0, 1) and value in (0, 1) and not known[name].any():
            rare = 1 - ((1 - level) / 2) ** (1 / (int(units.max()) + 1))
            found[name] = (0.0, rare) if value == 0 else (1 - rare, 1.0)
    return found


def difference(one: Measure, other: Measure, units: np.ndarray, level: float = LEVEL, draws: int = DRAWS) -> Difference:
    """The difference of a metric between two systems, image k of both of the same caption.

    The influences are subtracted image by image, so what a caption does to both systems cancels. The p-value is that of
    the normal distribution. ValueError: the influences are not known, or not of equally many images.
    """
    if one.influence is None or other.influence is None or len(one.influence) != len(other.influence):
        raise ValueError("a paired difference needs the influences of equally many images of both systems")
    apart = Measure(one.value - other.value, one.influence - other.influence)
    ((low, high),) = intervals({"difference": apart}, units, level, draws).values()
    moved = by_unit(one.influence - other.influence, units)
    error = moved.std(ddof=1) / sqrt(len(moved))
    p_value = erfc(abs(apart.value) / error / sqrt(2)) if error > 0 else float(apart.value == 0)
    return Difference(apart.value, low, high, p_value)
