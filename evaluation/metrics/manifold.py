"""Precision, recall, density, coverage and authenticity, of the distances between images, in one pass over them.

Precision and recall are those of torch-fidelity (Kynkäänniemi et al., arXiv 1904.06991), with balls to the third
neighbour; density and coverage those of prdc (Naeem et al., arXiv 2002.09797), with balls to the fifth; authenticity is
that of Alaa et al. (arXiv 2102.08921). The code is our own because an interval needs what each image contributes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ediffi.evaluation.metrics.intervals import Measure, mean

NEIGHBOURHOOD: Final = 3
"""Neighbours of precision and recall."""
DENSITY: Final = 5
"""Neighbours of density and coverage."""
ROWS: Final = 1000
"""Rows whose distances to all others are in memory at a time."""


@dataclass(frozen=True)
class Nearest:
    """Of each generated image, the nearest real one: its number, and two distances."""

    index: np.ndarray
    distance: np.ndarray
    spacing: np.ndarray  # of the real image to the nearest other real one

    @property
    def authentic(self) -> np.ndarray:
        """Whether the real image is nearer to another real one than to the generated one (Alaa et al., section 3)."""
        return self.spacing < self.distance


@dataclass
class _Contacts:
    """What the distances between generated and real images say, gathered over blocks of real ones."""

    precise: Tensor  # of each generated image: whether it is in a ball of a real one
    within: Tensor  # in how many balls for density
    covered: Tensor  # of each real image: how many generated ones are in its ball for density
    recalled: Tensor  # in how many balls of generated ones it is
    alone: np.ndarray  # of each generated image: real ones that only it covers
    lost: np.ndarray  # real ones that are not recalled any more without it, less those that are then recalled
    nearest: Tensor
    index: Tensor


def manifold(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], radii: Float[Tensor, "m 5"] | None = None
) -> tuple[dict[str, Measure], Nearest]:
    """All five by name, and "f_score", the harmonic mean of precision and recall; and the nearest real images.

    `radii` are `radii_of(real)`, computed if they are not given, by m² distances. Influences: precision, density and
    authenticity are means over generated images; of recall and coverage it is the exact effect of leaving an image out,
    times n - 1. ValueError: fewer than six images in a set.
    """
    if min(len(generated), len(real)) <= DENSITY:
        got = f"got {len(generated)} and {len(real)}"
        raise ValueError(f"precision and density need at least {DENSITY + 1} images in each set, {got}")
    radii = radii_of(real) if radii is None else radii
    x, y = _centred(generated, real), _centred(real, real)
    balls, neighbours = nearest_neighbours(x, NEIGHBOURHOOD + 1)
    found = _contacts(x, y, balls, neighbours, radii)
    nearest = Nearest(found.index.numpy(), found.nearest.numpy(), radii[found.index, 0].numpy())
    n, m = len(x), len(y)

    def left_out(value: float, lost: np.ndarray) -> Measure:
        moved = lost * ((n - 1) / m)
        return Measure(value, moved - moved.mean(), 0, 1)

    measures = {
        "precision": mean(found.precise.double().numpy()),
        "recall": left_out(float((found.recalled > 0).double().mean()), found.lost),
        "density": mean(found.within.double().numpy() / DENSITY),
        "coverage": left_out(float((found.covered > 0).double().mean()), found.alone),
        "authenticity": mean(nearest.authentic.astype(float)),
    }
    return {"f_score": _f_score(measures["precision"], measures["recall"]), **measures}, nearest


def radii_of(real: Float[Tensor, "m d"]) -> Float[Tensor, "m 5"]:
    """The distances of each real image to its nearest `DENSITY` others, ascending."""
    return nearest_neighbours(_centred(real, real), DENSITY)[0]


def _centred(rows: Tensor, real: Tensor) -> Tensor:
    """The rows less the mean of the real ones: their distances lose fewer digits."""
    total = sum(part.sum(0, dtype=torch.float64) for part in torch.as_tensor(real).split(ROWS))
    return torch.as_tensor(rows).float() - (total / len(real)).float()


def nearest_real(generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> Nearest:
    """The nearest real image of each generated one, as `manifold` finds it, by 2·n·m distances instead of m²."""
    x, y = _centred(generated, real), _centred(real, real)
    blocks = [block.min(1) for _, block in distances(x, y)]
    index, distance = torch.cat([one.indices for one in blocks]), torch.cat([one.values for one in blocks])
    seen, which = index.unique(return_inverse=True)
    spacing = []
    for start, block in distances(y[seen], y):
        own = torch.arange(len(block))
        block[own, seen[start : start + len(block)]] = torch.inf
        spacing.append(block.min(1).values)
    return Nearest(index.numpy(), distance.numpy(), torch.cat(spacing)[which].numpy())


def _f_score(precision: Measure, recall: Measure) -> Measure:
    p, r = precision.value, recall.value
    if p + r == 0:
        return Measure(0.0)
    assert precision.influence is not None
    assert recall.influence is not None
    moved = 2 * (r**2 * precision.influence + p**2 * recall.influence) / (p + r) ** 2
    return Measure(2 * p * r / (p + r), moved, 0, 1)


def distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Iterator[tuple[int, Tensor]]:
    """The distances of blocks of rows of `x` to all of `y` [b, m], each with the number of its first row."""
    squared = y.square().sum(1)
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        yield start, (rows.square().sum(1, keepdim=True) + squared - 2 * rows @ y.T).clamp(min=0).sqrt()


def nearest_neighbours(x: Float[Tensor, "n d"], count: int) -> tuple[Float[Tensor, "n k"], Tensor]:
    """The distances of each row to its nearest `count` other rows, ascending, and their numbers [n, count]."""
    found = []
    for start, block in distances(x, x):
        own = torch.arange(len(block))
        block[own, own + start] = torch.inf
        found.append(block.topk(count, largest=False))
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def _contacts(x: Tensor, y: Tensor, balls: Tensor, neighbours: Tensor, radii: Tensor) -> _Contacts:
    n, inner, outer = len(x), balls[:, NEIGHBOURHOOD - 1], balls[:, NEIGHBOURHOOD]
    close = neighbours[:, :NEIGHBOURHOOD].numpy()
    found = _Contacts(
        precise=torch.zeros(n, dtype=torch.bool),
        within=torch.zeros(n, dtype=torch.long),
        covered=torch.zeros(0, dtype=torch.long),
        recalled=torch.zeros(0, dtype=torch.long),
        alone=np.zeros(n),
        lost=np.zeros(n),
        nearest=torch.full((n,), torch.inf),
        index=torch.zeros(n, dtype=torch.long),
    )
    for start, block in distances(y, x):
        own = radii[start : start + len(block)]
        found.precise |= (block <= own[:, NEIGHBOURHOOD - 1, None]).any(0)
        inside = block < own[:, DENSITY - 1, None]
        found.within += inside.sum(0)
        covered, hit = inside.sum(1), block <= inner
        np.add.at(found.alone, inside[covered == 1].int().argmax(1).numpy(), 1)
        found.covered, found.recalled = torch.cat([found.covered, covered]), torch.cat([found.recalled, hit.sum(1)])
        _leave_out(found.lost, hit, (block <= outer) & ~hit, close)
        values, index = block.min(0)
        nearer = values < found.nearest
        found.nearest, found.index = values.where(nearer, found.nearest), (index + start).where(nearer, found.index)
    return found


def _leave_out(lost: np.ndarray, hit: Tensor, grown: Tensor, close: np.ndarray) -> None:
    """Add what recall loses without each generated image: real ones that only its ball holds, unless another ball,
    which grows to its next neighbour, then holds them; less those that come into a grown ball."""
    held = hit.sum(1)
    for row in torch.nonzero((held == 1) | ((held == 0) & grown.any(1))).flatten().tolist():
        gained = np.unique(close[grown[row].numpy()])  # without any of these, a ball grows to hold the row
        if held[row] == 0:
            lost[gained] -= 1
        elif (only := int(hit[row].int().argmax())) not in gained:
            lost[only] += 1
