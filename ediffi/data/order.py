"""Which sample a position of a run shows: a function of the seed and the sizes of the shards."""

from collections.abc import Sequence

import numpy as np


class Order:
    """Which sample a position shows: every epoch, of as many positions as there are samples, shows each once.

    Positions go round `lanes`, `chunk` from each. The shards of an epoch are shuffled, laid in a row lane by lane, and
    shuffled within; a lane reads the part of this row that has as many samples as the epoch has positions in it. So
    shards of any sizes are dealt evenly, and one that lies across the border of two lanes is read by both.
    """

    def __init__(self, sizes: Sequence[int], seed: int, lanes: int, chunk: int) -> None:
        self.sizes, self.seed, self.lanes, self.chunk = np.array(sizes), seed, lanes, chunk
        self.samples = sum(sizes)
        self._rows: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def lane(self, position: int) -> int:
        """The lane that a position belongs to."""
        return position // self.chunk % self.lanes

    def locate(self, position: int) -> tuple[int, int, int]:
        """Epoch, shard, and place in the shuffled shard, of the sample at a position."""
        epoch, lane = position // self.samples, self.lane(position)
        shards, ends, starts = self._row(epoch)
        place = starts[lane] + self._before(position, lane) - self._before(epoch * self.samples, lane)
        turn = int(np.searchsorted(ends, place, side="right"))
        shard = int(shards[turn])
        return epoch, shard, int(place - ends[turn] + self.sizes[shard])

    def shuffled(self, epoch: int, shard: int) -> np.ndarray:
        """The samples of a shard in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch, shard]).permutation(self.sizes[shard])

    def _row(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The row of an epoch: its shards, where each ends, and where each lane starts."""
        if epoch not in self._rows:
            shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes))
            shards = np.concatenate([shuffled[lane :: self.lanes] for lane in range(self.lanes)])
            first, end = epoch * self.samples, (epoch + 1) * self.samples
            shares = [self._before(end, lane) - self._before(first, lane) for lane in range(self.lanes)]
            self._rows = {epoch: (shards, np.cumsum(self.sizes[shards]), np.cumsum([0, *shares]))}  # positions ascend
        return self._rows[epoch]

    def _before(self, position: int, lane: int) -> int:
        """How many positions before this one belong to a lane."""
        turns, within = divmod(position, self.chunk)
        around, now = divmod(turns, self.lanes)
        return around * self.chunk + (self.chunk if lane < now else within if lane == now else 0)
