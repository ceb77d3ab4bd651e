"""Which sample a position of a run shows: a function of the seed and the sizes of the shards."""

from collections.abc import Sequence

import numpy as np


class Order:
    """Which sample a position shows: every epoch, of as many positions as there are samples, shows each once.

    Positions go round `lanes`, `chunk` from each. The shards of an epoch are shuffled, laid in a row lane by lane, and
    shuffled within; a lane reads the part of this row that has as many samples as the epoch has positions in it. So
    shards of any sizes are dealt evenly, and one that lies across the border of two lanes is read by both.

    A run may change its lanes between epochs: `earlier` has pairs of an epoch, and the lanes of the epochs before it.
    """

    def __init__(
        self, sizes: Sequence[int], seed: int, lanes: int, chunk: int, earlier: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.sizes, self.seed, self.lanes, self.chunk = np.array(sizes), seed, lanes, chunk
        self.earlier = earlier
        self.samples = sum(sizes)
        self._rows: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def lane(self, position: int) -> int:
        """The lane that a position belongs to."""
        return position // self.chunk % self.lanes_in(position // self.samples)

    def lanes_in(self, epoch: int) -> int:
        """The lanes of an epoch."""
        return next((lanes for end, lanes in self.earlier if epoch < end), self.lanes)

    def locate(self, position: int) -> tuple[int, int, int]:
        """Epoch, shard, and place in the shuffled shard, of the sample at a position."""
        epoch, turn, place = self._turn(position)
        shards, ends, _ = self._row(epoch)
        shard = int(shards[turn])
        return epoch, shard, int(place - ends[turn] + self.sizes[shard])

    def following(self, position: int) -> tuple[int, int] | None:
        """Epoch and shard that the lane of a position reads after this one; None if the next epoch lacks the lane."""
        epoch, turn, _ = self._turn(position)
        lane, (shards, ends, starts) = self.lane(position), self._row(epoch)
        place = ends[turn]
        if place >= starts[lane + 1]:
            epoch += 1
            shards, ends, starts = self._row(epoch)
            if lane + 1 >= len(starts) or starts[lane] == starts[lane + 1]:
                return None
            place = starts[lane]
        return epoch, int(shards[np.searchsorted(ends, place, side="right")])

    def _turn(self, position: int) -> tuple[int, int, int]:
        """Epoch of a position, and of its sample in the row of that: the number of its shard, and the place."""
        epoch, lane = position // self.samples, self.lane(position)
        _, ends, starts = self._row(epoch)
        place = starts[lane] + self._before(position, lane, epoch) - self._before(epoch * self.samples, lane, epoch)
        return epoch, int(np.searchsorted(ends, place, side="right")), int(place)

    def shuffled(self, epoch: int, shard: int) -> np.ndarray:
        """The samples of a shard in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch, shard]).permutation(self.sizes[shard])

    def _row(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The row of an epoch: its shards, where each ends, and where each lane starts."""
        if epoch not in self._rows:
            shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes))
            lanes, first, end = self.lanes_in(epoch), epoch * self.samples, (epoch + 1) * self.samples
            shards = np.concatenate([shuffled[lane::lanes] for lane in range(lanes)])
            shares = [self._before(end, lane, epoch) - self._before(first, lane, epoch) for lane in range(lanes)]
            near = {one: row for one, row in self._rows.items() if abs(one - epoch) == 1}  # positions ascend
            self._rows = {**near, epoch: (shards, np.cumsum(self.sizes[shards]), np.cumsum([0, *shares]))}
        return self._rows[epoch]

    def _before(self, position: int, lane: int, epoch: int) -> int:
        """How many positions before this one belong to a lane, if all epochs had the lanes of this one."""
        turns, within = divmod(position, self.chunk)
        around, now = divmod(turns, self.lanes_in(epoch))
        return around * self.chunk + (self.chunk if lane < now else within if lane == now else 0)
