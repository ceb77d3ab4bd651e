"""The shards that a loader process has in memory: one of each lane that it reads, and the next one, read ahead.

Lanes come to the end of their shards at about the same time. They begin to read ahead one after the other, so that the
processes of a run do not all ask the store for a shard in the same step, and no step waits for one.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ediffi.data.order import Order
from ediffi.data.tar import RawSample

LAST_BEGIN = 0.75
"""Share of its shard that the last lane has shown before it reads the next one; the first lane begins at once."""
Key = tuple[int, int]  # epoch and shard


class LaneReader:
    """Finds the samples of positions, which ascend. `read` gives the samples of a shard, in the shard's order. Memory
    holds at most two shards a lane, and one without `read_ahead`."""

    def __init__(self, order: Order, read: Callable[[int], list[RawSample]], read_ahead: bool = True) -> None:
        self._order, self._read_shard, self._read_ahead = order, read, read_ahead
        self._current: dict[int, tuple[Key, list[RawSample]]] = {}
        self._ahead: dict[int, tuple[Key, Future[list[RawSample]]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def find(self, position: int) -> tuple[int, list[RawSample], int]:
        """Of the sample at a position: its shard, the samples of that in the order of the epoch, and its place among
        them. Raises what reading the shard raises."""
        epoch, shard, place = self._order.locate(position)
        lane, lanes = self._order.lane(position), self._order.lanes_in(epoch)
        if lane not in self._current or self._current[lane][0] != (epoch, shard):
            self._current = {one: held for one, held in self._current.items() if one < lanes and one != lane}
            self._current[lane] = (epoch, shard), self._take(lane, (epoch, shard))
        rows = self._current[lane][1]
        if self._read_ahead and lane not in self._ahead and place >= LAST_BEGIN * lane / lanes * len(rows):
            following = self._order.following(position)
            if following is not None:
                self._ahead[lane] = following, self._thread.submit(self._read, following)
        return shard, rows, place

    def close(self) -> None:
        """Read nothing more ahead."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _take(self, lane: int, key: Key) -> list[RawSample]:
        ahead = self._ahead.pop(lane, None)
        return ahead[1].result() if ahead is not None and ahead[0] == key else self._read(key)

    def _read(self, key: Key) -> list[RawSample]:
        samples = self._read_shard(key[1])
        return [samples[row] for row in self._order.shuffled(*key)]
