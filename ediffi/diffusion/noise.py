"""The noise a stage is trained on, `ln sigma ~ N(mean, std²)` (EDM, table 1), and the parts of it that experts own.

eDiff-I, section 4.1: node (level, index) of a binary tree owns the share [index/2^level, (index+1)/2^level) of the
training noise, from the least to the most noisy; one expert may take all that a few nodes leave, their complement.
Shares are exact fractions; the noise levels at their ends follow from the inverse normal distribution function.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LEVEL = 30
"""Deepest level of the tree; its parts are still told apart, and drawn from, in double precision."""

Span = tuple[Fraction, Fraction]
"""A share of the training noise, from its first quantile to the one it ends before."""


@dataclass(frozen=True)
class Interval:
    """A node of the tree: the share [index/2^level, (index+1)/2^level) of the training noise.

    Args:
        level: depth in the tree; the root is 0.
        index: from 0, the least noisy, to 2^level - 1, the noisiest.

    Raises:
        ValueError: `level` or `index` is out of range.
    """

    level: int
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.level <= MAX_LEVEL:
            raise ValueError(f"level of a noise interval must be in 0 to {MAX_LEVEL}, got {self.level}")
        if not 0 <= self.index < 2**self.level:
            raise ValueError(
                f"index of a noise interval must be in 0 to {2**self.level - 1} at level {self.level}, got {self.index}"
            )

    @property
    def spans(self) -> tuple[Span, ...]:
        """Its one share."""
        width = Fraction(1, 2**self.level)
        return ((self.index * width, (self.index + 1) * width),)

    @property
    def children(self) -> "tuple[Interval, Interval]":
        """The less and the more noisy half."""
        return Interval(self.level + 1, 2 * self.index), Interval(self.level + 1, 2 * self.index + 1)

    @property
    def label(self) -> str:
        """A name for files and folders."""
        return f"{self.level}-{self.index}"

    def __str__(self) -> str:
        return f"({self.level}, {self.index})"


@dataclass(frozen=True)
class Complement:
    """All noise that some nodes leave: the paper's M^C is `Complement((Interval(3, 0), Interval(9, 511)))`.

    Args:
        without: the nodes, kept in order of noise.

    Raises:
        ValueError: there is no node, two overlap, or they leave nothing.
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
        """Its shares, in order of noise; touching ones joined."""
        ends = [Fraction(0), *(end for node in self.without for end in node.spans[0]), Fraction(1)]
        return tuple((low, high) for low, high in zip(ends[::2], ends[1::2], strict=True) if low < high)

    @property
    def label(self) -> str:
        """A name for files and folders."""
        return "without-" + "-".join(node.label for node in self.without)

    def __str__(self) -> str:
        return f"all without {' and '.join(map(str, self.without))}"


NoiseInterval = Interval | Complement
"""What an expert may own."""

ROOT = Interval(0, 0)
"""All noise."""


def region_from(content: Any) -> NoiseInterval:
    """The region that `dataclasses.asdict` made `content` of, as a checkpoint or a manifest has it.

    Raises:
        ValueError: it is not one.
    """
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

    Raises:
        ValueError: `std` is not positive.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std of the training noise must be positive, got {self.std}")

    def sample(
        self, count: int, generator: torch.Generator | None = None, region: NoiseInterval = ROOT
    ) -> Float[Tensor, " count"]:
        """Noise levels [count], drawn on the CPU: the log-normal truncated to `region`, by its inverse."""
        spans = torch.tensor([[float(low), float(high)] for low, high in region.spans], dtype=torch.float64)
        widths = spans[:, 1] - spans[:, 0]
        share = torch.rand(count, generator=generator, dtype=torch.float64).clamp(min=2.0**-53) * widths.sum()
        before = torch.cat([widths.new_zeros(1), widths.cumsum(0)])
        chosen = torch.bucketize(share, before[1:-1], right=True)
        return self.quantile(spans[chosen, 0] + share - before[chosen]).float()

    def quantile(self, q: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Noise levels below which a share `q` in [0, 1] of the training noise lies; 0 and inf at the ends."""
        return (self.mean + self.std * torch.special.ndtri(q.double())).exp().to(q.dtype)

    def bounds(self, region: NoiseInterval) -> list[tuple[float, float]]:
        """The noise levels [low, high) that `region` owns, in order; the first may start at 0, the last end at inf."""
        ends = torch.tensor([[float(low), float(high)] for low, high in region.spans], dtype=torch.float64)
        return [(low, high) for low, high in self.quantile(ends.flatten()).view(-1, 2).tolist()]


def contains(outer: NoiseInterval, inner: NoiseInterval) -> bool:
    """Whether `outer` owns all noise that `inner` owns."""
    return all(any(low <= first and last <= high for low, high in outer.spans) for first, last in inner.spans)


def overlap(one: NoiseInterval, two: NoiseInterval) -> bool:
    """Whether both own some noise level."""
    return any(low < last and first < high for low, high in one.spans for first, last in two.spans)


def check_partition(regions: Sequence[NoiseInterval]) -> None:
    """Make sure that the regions are all noise, each noise level once.

    Raises:
        ValueError: two regions overlap, or they leave a gap; the message names them.
    """
    owned = sorted((span, str(region)) for region in regions for span in region.spans)
    reached, last = Fraction(0), "the beginning"
    for (low, high), name in owned:
        if low < reached:
            raise ValueError(
                f"the experts of {last} and {name} overlap: both own quantiles {low} to {min(high, reached)}"
            )
        if low > reached:
            raise ValueError(f"no expert owns the noise quantiles {reached} to {low}, between {last} and {name}")
        reached, last = high, name
    if reached < 1:
        raise ValueError(f"no expert owns the noise quantiles {reached} to 1, after {last}")


def merge(regions: Iterable[NoiseInterval]) -> NoiseInterval:
    """The region that owns what the given ones own: a node where they are one, else a complement.

    Raises:
        ValueError: two of them overlap.
    """
    spans: list[Span] = []
    for low, high in sorted(span for region in regions for span in region.spans):
        if spans and low < spans[-1][1]:
            raise ValueError(f"regions to merge overlap at the noise quantile {low}")
        if spans and low == spans[-1][1]:
            spans[-1] = (spans[-1][0], high)
        else:
            spans.append((low, high))
    nodes = [node for low, high in spans for node in _nodes(low, high)]
    if len(nodes) == 1:
        return nodes[0]
    ends = [Fraction(0), *(end for span in spans for end in span), Fraction(1)]
    gaps = zip(ends[::2], ends[1::2], strict=True)
    return Complement(tuple(node for low, high in gaps for node in _nodes(low, high)))


def _nodes(low: Fraction, high: Fraction) -> list[Interval]:
    """The fewest nodes of the tree that make up [low, high)."""
    nodes = []
    while low < high:
        level = low.denominator.bit_length() - 1  # the coarsest node that starts at `low`
        if low + Fraction(1, 2**level) > high:
            level = math.ceil(math.log2(1 / (high - low)))
        nodes.append(Interval(level, int(low * 2**level)))
        low = nodes[-1].spans[0][1]
    return nodes
