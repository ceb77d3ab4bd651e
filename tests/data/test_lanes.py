"""Shards read ahead, staggered, in bounded memory; lanes that change when a run is resumed."""

import itertools
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ediffi.data.index import Shard
from ediffi.data.lanes import LaneReader
from ediffi.data.module import ShardData
from ediffi.data.order import Order
from ediffi.data.stream import ImageTransform, ShardStream


class Raw(dict):
    """A sample of which can be known whether it is in memory."""


class Store:
    """Shards of 20 samples; it remembers which thread read what, and how many samples are alive."""

    def __init__(self, fails: int | None = None) -> None:
        self.threads: list[str] = []
        self.alive = self.most = 0
        self.fails = fails

    def read(self, shard: int) -> list[dict[str, Any]]:
        self.threads.append(threading.current_thread().name)
        if shard == self.fails:
            raise OSError(f"shard {shard}")
        samples = [Raw(shard=shard, row=row) for row in range(20)]
        self.alive += len(samples)
        self.most = max(self.most, self.alive)
        for sample in samples:
            weakref.finalize(sample, self._gone)
        return samples

    def _gone(self) -> None:
        self.alive -= 1


def test_the_next_shard_is_there_when_its_turn_comes() -> None:
    """All but the first shard of each lane are read by the other thread, and what is found is the same."""
    order, store, plain = Order([20] * 12, 3, 3, 2), Store(), Store()
    reader, alone = LaneReader(order, store.read), LaneReader(order, plain.read, read_ahead=False)
    for position in range(480):
        shard, rows, place = reader.find(position)
        assert order.locate(position)[1:] == (shard, place)
        assert rows[place] == alone.find(position)[1][place]
        assert rows[place]["shard"] == shard
    assert sum(not name.startswith("read-ahead") for name in store.threads) == 3
    assert not any(name.startswith("read-ahead") for name in plain.threads)
    assert 60 < store.most <= 120
    assert plain.most == 60
    reader.close()


def test_lanes_begin_to_read_ahead_in_different_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come to the ends of their shards together: 8 lanes of equal shards, on 8 processes."""
    order, began = Order([160] * 16, 3, 8, 4), []
    for rank in range(8):
        reader = LaneReader(order, lambda shard: [Raw()] * 160)
        submit = reader._thread.submit
        now = [0]

        def told(*task: Any, submit: Any = submit, now: list[int] = now) -> Any:
            began.append(now[0])
            return submit(*task)

        monkeypatch.setattr(reader._thread, "submit", told)
        for step in range(39):
            now[0] = step
            for position in range((step * 8 + rank) * 4, (step * 8 + rank) * 4 + 4):
                reader.find(position)
    assert len(began) == len(set(began)) == 8
    assert max(began) < 30


def test_a_shard_that_cannot_be_read_ahead_is_told_in_its_turn() -> None:
    order = Order([20] * 3, 3, 1, 1)
    last = order.locate(40)[1]
    reader = LaneReader(order, Store(fails=last).read)
    for position in range(40):
        reader.find(position)
    with pytest.raises(OSError, match=f"shard {last}"):
        reader.find(40)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=3, max_size=8).filter(any),
    lanes=st.integers(1, 3),
    before=st.integers(1, 3),
    chunk=st.integers(1, 4),
)
def test_lanes_change_between_epochs_and_nothing_is_lost(sizes: list[int], lanes: int, before: int, chunk: int) -> None:
    """Earlier epochs are those of the earlier lanes, later ones those of the later; what follows in a lane is known."""
    order, total = Order(sizes, 3, lanes, chunk, [(2, before)]), sum(sizes)
    every = [(p, order.lane(p), *order.locate(p)) for p in range(4 * total)]
    for epoch, like in ((0, before), (1, before), (2, lanes), (3, lanes)):
        found = [one[2:] for one in every if one[2] == epoch]
        assert found == [Order(sizes, 3, like, chunk).locate(p) for p in range(epoch * total, (epoch + 1) * total)]
        assert len({one[1:] for one in found}) == total
    for (position, lane, epoch, shard, _), later in zip(every, (every[i:] for i in range(len(every))), strict=True):
        if epoch == 3:
            break
        coming = [one for one in later if one[1] == lane and one[2:4] != (epoch, shard)]
        following = order.following(position)
        if following is not None and coming:
            assert following == coming[0][2:4]


def test_reading_ahead_changes_no_batch(shards: list[Shard]) -> None:
    plain, ahead = (
        ShardStream(shards, ImageTransform(16), 5, 3, lanes=3, chunk=5, read_ahead=read_ahead)
        for read_ahead in (False, True)
    )
    for one, two in itertools.islice(zip(plain, ahead, strict=True), 30):
        assert one.keys == two.keys
        assert torch.equal(one.images, two.images)


def at(step: int, data: ShardData) -> ShardData:
    """The data of a trainer that has done so many steps of 4 samples."""
    here = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(
        global_step=step, accumulate_grad_batches=1, global_rank=0, world_size=1, strategy=here,
        state=SimpleNamespace(fn="fit"),
    )  # fmt: skip
    return data


def test_a_resumed_run_may_have_other_lanes(shard_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """48 samples an epoch, 12 steps: stopped in the second epoch, and again in the third."""
    caplog.set_level("INFO", logger="ediffi")

    def of(lanes: int) -> ShardData:
        return ShardData(shard_folder, shard_folder, 16, batch_size=4, seed=3, lanes=lanes)

    keys: list[str] = []
    state: dict[str, Any] | None = None
    for lanes, first, end in ((1, 0, 17), (3, 17, 28), (2, 28, 60)):
        data = at(first, of(lanes))
        if state is not None:
            data.load_state_dict(state)
        batches = itertools.islice(data.train_dataloader(), end - first)
        keys += [key for batch in batches for key in batch.keys]
        state = at(end, data).state_dict()
    for epoch in range(5):
        assert len(set(keys[48 * epoch : 48 * (epoch + 1)])) == 48
    whole = [
        [key for batch in itertools.islice(at(0, of(lanes)).train_dataloader(), 60) for key in batch.keys]
        for lanes in (1, 3, 2)
    ]
    assert keys == whole[0][:96] + whole[1][96:144] + whole[2][144:]
    assert "data.lanes were 1: this epoch goes on with them, and epoch 2 has 3" in caplog.text
