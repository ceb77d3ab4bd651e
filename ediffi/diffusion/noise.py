"""The training noise of a stage, `ln sigma ~ N(mean, std²)` (EDM, table 1), and the intervals of it that experts own.

eDiff-I, section 4.1: node (level, index) of a binary tree owns the quantiles [index/2^level, (index+1)/2^level) of the
training noise, from low to high noise; an expert may also own the complement of a few nodes. Quantiles are exact
fractions; the noise levels at the edges follow from the inverse normal distribution function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ediffi.registry.random import Generators, rand

MAX_LEVEL = 30
"""Deepest level of the tree: double precision still separates its nodes."""

Span = tuple[Fraction, Fraction]
"""Quantiles [low, high) of the training noise."""


@dataclass(frozen=True)
class Interval:
    """A node of the tree: the quantiles [index/2^level, (index+1)/2^level) of the training noise.

    Args:
        level: depth in the tree; the root is 0.
        index: from 0, the lowest noise, to 2^level - 1, the highest.
    """

    level: int
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.level <= MAX_LEVEL:
            raise ValueError(f"level of a noise interval must be in 0 to {MAX_LEVEL}, got {self.level}")
        if not 0 <= self.index < 2**self.level:
            allowed = f"0 to {2**self.level - 1} at level {self.level}"
            raise ValueError(f"index of a noise interval must be in {allowed}, got {self.index}")

    @property
    def spans(self) -> tuple[Span, ...]:
        """Its quantiles: one span."""
        width = Fraction(1, 2**self.level)
        return ((self.index * width, (self.index + 1) * width),)

    @property
    def children(self) -> "tuple[Interval, Interval]":
        """The halves of lower and of higher noise."""
        return Interval(self.level + 1, 2 * self.index), Interval(self.level + 1, 2 * self.index + 1)

    @property
    def label(self) -> str:
        """For names of files and folders."""
        return f"{self.level}-{self.index}"

    def __str__(self) -> str:
        return f"({self.level}, {self.index})"


@dataclass(frozen=True)
class Complement:
    """All noise except some nodes: the paper's M^C is `Complement((Interval(3, 0), Interval(9, 511)))`.

    Args:
        without: the nodes, in any order.

    Raises:
        ValueError: there is no node, two overlap, or nothing is left.
    """

    without: tuple[Interval, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "without", tuple(sorted(self.without, key=lambda node: node.spans)))
        if not self.without:
            raise ValueError("a complement needs at least one interval to leave out")
        for one, two in zip(self.without, self.without[1:], strict=False):
            if one.spans[0][1] > two.spans[0][0]:
                raise ValueError(f"intervals {one} and {two} overlap; a complement leaves each noise level out once")
        if not self.spans:
            raise ValueError(f"intervals {', '.join(map(str, self.without))} leave no noise for a complement")

    @property
    def spans(self) -> tuple[Span, ...]:
        """Its quantiles from low to high noise; spans that touch are joined."""
        ends = [Fraction(0), *(end for node in self.without for end in node.spans[0]), Fraction(1)]
        return tuple((low, high) for low, high in zip(ends[::2], ends[1::2], strict=True) if low < high)

    @property
    def label(self) -> str:
        """For names of files and folders."""
        return "without-" + "-".join(node.label for node in self.without)

    def __str__(self) -> str:
        return f"all without {' and '.join(map(str, self.without))}"


NoiseInterval = Interval | Complement
"""What an expert can own."""

ROOT = Interval(0, 0)
"""All noise."""


def interval_from(content: Any) -> NoiseInterval:
    """The interval that `dataclasses.asdict` turned into `content`, as in a checkpoint or in `config.json`."""
    try:
        if "without" in content:
            return Complement(**{**content, "without": tuple(Interval(**node) for node in content["without"])})
        return Interval(**content)
    except TypeError:
        raise ValueError(f"{content!r} is not a noise interval: level and index, or without and a list") from None


@dataclass(frozen=True)
class LogNormal:
    """Log-normal training noise.

    Args:
        mean: mean of `ln sigma`; EDM's `P_mean`.
        std: standard deviation of `ln sigma`; EDM's `P_std`.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std of the training noise must be positive, got {self.std}")

    def sample(self, count: int, generator: Generators = None, region: NoiseInterval = ROOT) -> Float[Tensor, " count"]:
        """Noise levels: the log-normal truncated to `region`, by inverse transform sampling; positive and finite.

        They are drawn on the CPU, whose functions of a float64 give the same levels on every machine.
        """
        spans = torch.tensor([[float(low), float(high)] for low, high in region.spans], dtype=torch.float64)
        widths, highest = spans[:, 1] - spans[:, 0], torch.nextafter(spans[:, 1], torch.zeros(1).double())
        # u = 0 would be the quantile 0, whose noise level is 0.
        share = rand((count,), generator, dtype=torch.float64).clamp(min=2.0**-53) * widths.sum()
        before = torch.cat([widths.new_zeros(1), widths.cumsum(0)])
        chosen = torch.bucketize(share, before[1:-1], right=True)
        # the sum may round up to the end of its span, which is the next expert's; the last one's noise level is inf
        quantiles = (spans[chosen, 0] + share - before[chosen]).minimum(highest[chosen])
        extremes = torch.finfo(torch.float32)
        return self.quantile(quantiles).clamp(extremes.tiny, extremes.max).float()

    def quantile(self, q: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Noise levels at the quantiles `q` in [0, 1]; 0 and inf at the ends."""
        return (self.mean + self.std * torch.special.ndtri(q.double())).exp().to(q.dtype)

    def bounds(self, region: NoiseInterval) -> list[tuple[float, float]]:
        """The noise levels [low, high) that `region` owns, in order, from 0 to inf at the ends."""
        ends = torch.tensor([[float(low), float(high)] for low, high in region.spans], dtype=torch.float64)
        return [(low, high) for low, high in self.quantile(ends.flatten()).view(-1, 2).tolist()]


def contains(outer: NoiseInterval, inner: NoiseInterval) -> bool:
    """Whether `outer` owns all noise that `inner` owns."""
    return all(any(low <= first and last <= high for low, high in outer.spans) for first, last in inner.spans)


def overlap(one: NoiseInterval, two: NoiseInterval) -> bool:
    """Whether two intervals share a noise level."""
    return any(low < last and first < high for low, high in one.spans for first, last in two.spans)


def check_partition(regions: Sequence[NoiseInterval]) -> None:
    """ValueError unless each noise level is owned once; it names the intervals that overlap, or the gap."""
    owned = sorted((span, str(region)) for region in regions for span in region.spans)
    reached, last = Fraction(0), "the beginning"
    for (low, high), name in owned:
        if low < reached:
            both = f"both own quantiles {low} to {min(high, reached)}"
            raise ValueError(f"the experts of {last} and {name} overlap: {both}")
        if low > reached:
            raise ValueError(f"no expert owns the noise quantiles {reached} to {low}, between {last} and {name}")
        reached, last = high, name
    if reached < 1:
        raise ValueError(f"no expert owns the noise quantiles {reached} to 1, after {last}")
