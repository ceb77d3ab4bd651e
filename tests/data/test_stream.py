"""The order of samples: a function of the position in the run, whoever reads it."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ediffi.data import stream
from ediffi.data.degradation.degrade import Degradation, random_source
from ediffi.data.index import Shard
from ediffi.data.module import ShardData
from ediffi.data.order import Order
from ediffi.data.shards import Sample, decode, read_shard
from ediffi.data.stream import Batch, ImageTransform, ShardStream
from ediffi.io.images import to_tensor


def batches(shards: list[Shard], count: int, batch_size: int, start: int = 0, **options) -> list[Batch]:
    options = {"transform": ImageTransform(16), "seed": 3, **options}
    return list(itertools.islice(ShardStream(shards, batch_size=batch_size, start=start, **options), count))


def keys(some: list[Batch]) -> list[str]:
    return [key for batch in some for key in batch.keys]


def test_one_lane_is_the_shuffled_shards_one_after_the_other(shards: list[Shard]) -> None:
    """Two epochs and more, re-stated: an epoch shuffles the shards, and then within each of them."""
    wanted = []
    for epoch in range(3):
        for number in np.random.default_rng([3, epoch]).permutation(len(shards)):
            raw = [sample["__key__"] for sample in read_shard(shards[number].path)]
            wanted += [raw[i] for i in np.random.default_rng([3, epoch, int(number)]).permutation(len(raw))]
    assert keys(batches(shards, 21, 5)) == wanted[:105]


@settings(max_examples=10)
@given(
    lanes=st.integers(1, 3),
    chunk=st.integers(1, 5),
    dealt=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]),
)
def test_a_step_has_the_same_samples_however_it_is_dealt(
    shards: list[Shard], lanes: int, chunk: int, dealt: tuple[int, int]
) -> None:
    """One batch of 8; or processes times accumulated batches."""
    world_size, accumulated = dealt
    size = 8 // (world_size * accumulated)
    options = {"lanes": lanes, "chunk": chunk, "transform": ImageTransform(16, 8)}
    whole = batches(shards, 7, 8, **options)
    ranks = [
        batches(shards, 7 * accumulated, size, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for step, wanted in enumerate(whole):
        parts = [rank[step * accumulated + i] for i in range(accumulated) for rank in ranks]
        assert keys(parts) == wanted.keys
        assert torch.equal(torch.cat([part.images for part in parts]), wanted.images)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_crop_and_its_low_resolution_are_those_of_the_position(
    shards: list[Shard], flip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Re-stated: the crop is drawn from (seed, position), at multiples of the scale; the degradation, of the crop and
    what is around it, from the random source of both."""
    monkeypatch.setattr(stream, "REACH", 3)  # 2 pixels, since the low resolution has no half ones
    by_key = {raw["__key__"]: raw for shard in shards for raw in read_shard(shard.path)}
    degrade = Degradation(scale=2)
    options = {"transform": ImageTransform(16, 8), "degrade": degrade, "horizontal_flip": flip}
    (_, batch) = batches(shards, 2, 3, rank=1, world_size=2, **options)
    corners = []
    for row, position in enumerate(range(9, 12)):
        top, left = np.random.default_rng([3, position]).integers(0, 5, size=2) * 2
        around = [min(max(0, place - 2), 16 - 12) for place in (top, left)]
        image = to_tensor(decode(by_key[batch.keys[row]]).image, 16)
        image = image[:, around[0] : around[0] + 12, around[1] : around[1] + 12]
        top, left = top - around[0], left - around[1]
        if flip:
            image, left = image.flip(-1), 12 - 8 - left
        assert torch.equal(batch.images[row], image[:, top : top + 8, left : left + 8])
        low_res = degrade(image, random_source(3, position))[:, top // 2 : top // 2 + 4, left // 2 : left // 2 + 4]
        assert torch.equal(batch.cond.low_res[row], low_res)
        corners.append((top, left))
    assert len(set(corners)) > 1


def test_a_clean_low_resolution_is_the_average_of_its_crop(shards: list[Shard]) -> None:
    (batch,) = batches(shards, 1, 8, transform=ImageTransform(16, 8), degrade=Degradation(scale=2, probability=0.0))
    assert torch.equal(batch.cond.low_res, torch.nn.functional.avg_pool2d(batch.images, 2))


def test_a_padded_image_is_whole_and_never_enlarged() -> None:
    """Re-stated in numpy: the longest side is averaged down; what is smaller than the square stays as it is."""
    rng, rows = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    transform, background = ImageTransform(8, background=(10, 20, 30), resize="pad"), np.array([10.0, 20, 30])
    wide = transform(Sample("a", Image.fromarray(rows), "", {}, {}), rng)
    wanted = np.full((8, 8, 3), background)
    wanted[2:6] = rows.reshape(4, 4, 8, 4, 3).mean((1, 3))
    assert np.abs((wide.numpy().transpose(1, 2, 0) + 1) * 127.5 - wanted).max() <= 1
    small = transform(Sample("b", Image.fromarray(rows[:2, :6]), "", {}, {}), rng)
    wanted = np.full((8, 8, 3), background)
    wanted[3:5, 1:7] = rows[:2, :6]
    assert np.abs((small.numpy().transpose(1, 2, 0) + 1) * 127.5 - wanted).max() < 1e-4
    assert transform.least_side == 1
    thin = transform(Sample("c", Image.new("RGB", (20_000, 1)), "", {}, {}), rng)
    assert thin.shape == (3, 8, 8)


def test_a_flip_is_that_of_the_position(shards: list[Shard]) -> None:
    """Half of the images, the same in any batch size; the crop stays that of the position."""
    for crop in (None, 8):
        plain, flipped, always = (
            torch.cat([b.images for b in batches(shards, 12, 8, transform=ImageTransform(16, crop), horizontal_flip=p)])
            for p in (0.0, 0.5, 1.0)
        )
        assert torch.equal(always, plain.flip(-1))
        chosen = (flipped == always).flatten(1).all(1)
        assert torch.equal(flipped[~chosen], plain[~chosen])
        assert 30 < chosen.sum() < 66
        again = batches(shards, 4, 3, 20, transform=ImageTransform(16, crop), horizontal_flip=0.5)
        assert torch.equal(torch.cat([b.images for b in again]), flipped[60:72])


def test_validation_never_flips(shard_folder: Path) -> None:
    plain, flipped = (ShardData(shard_folder, shard_folder, 16, batch_size=4, horizontal_flip=p) for p in (0.0, 1.0))
    for one, two in zip(plain.val_dataloader(), flipped.val_dataloader(), strict=True):
        assert torch.equal(one.images, two.images)
    one, two = (next(iter(data.train_dataloader())).images for data in (plain, flipped))
    assert torch.equal(one, two.flip(-1))
    with pytest.raises(ValueError, match=r"horizontal_flip must be in \[0, 1\], got 1.5"):
        ShardData(shard_folder, shard_folder, 16, horizontal_flip=1.5)


@pytest.mark.parametrize("lanes", [1, 3])
def test_an_epoch_shows_every_sample_once(shards: list[Shard], lanes: int) -> None:
    first, second = keys(batches(shards, 6, 8, lanes=lanes)), keys(batches(shards, 6, 8, start=6, lanes=lanes))
    assert len(set(first)) == len(set(second)) == 48
    assert first != second


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    lanes=st.integers(1, 5),
    chunk=st.integers(1, 7),
    epoch=st.integers(0, 9),
)
def test_an_epoch_of_unequal_shards_is_a_permutation(sizes: list[int], lanes: int, chunk: int, epoch: int) -> None:
    """And a lane reads forwards: a shard that it has left does not come again in the epoch."""
    order, total = Order(sizes, 3, lanes, chunk), sum(sizes)
    found = [(order.lane(p), *order.locate(p)) for p in range(epoch * total, (epoch + 1) * total)]
    assert {one[1] for one in found} == {epoch}
    wanted = [(shard, place) for shard, size in enumerate(sizes) for place in range(size)]
    assert sorted(one[2:] for one in found) == wanted
    for lane in range(lanes):
        read = [(shard, place) for of, _, shard, place in found if of == lane]
        turns = [shard for shard, _ in itertools.groupby(read, key=lambda one: one[0])]
        assert len(turns) == len(set(turns))
        assert all(b == a + 1 for (s, a), (t, b) in itertools.pairwise(read) if s == t)


def test_a_position_may_be_asked_for_alone() -> None:
    """Resuming in any epoch: nothing depends on what was asked before."""
    whole = Order([5, 9, 2, 7], 0, 3, 2)
    assert [whole.locate(p) for p in range(80)] == [Order([5, 9, 2, 7], 0, 3, 2).locate(p) for p in range(80)]


def test_equal_shards_are_dealt_as_ever() -> None:
    """The orders of earlier versions: lane l takes the shuffled shards l, l + lanes, ..."""
    order = Order([6] * 8, 5, 4, 3)
    for epoch in range(2):
        shuffled = np.random.default_rng([5, epoch]).permutation(8)
        for lane in range(4):
            found = [order.locate(p) for p in range(48 * epoch, 48 * (epoch + 1)) if order.lane(p) == lane]
            assert found == [(epoch, int(shard), place) for shard in shuffled[lane::4] for place in range(6)]


@pytest.mark.parametrize("lanes", [1, 2])
def test_resuming_goes_on_where_it_was(shards: list[Shard], lanes: int) -> None:
    options = {"lanes": lanes, "chunk": 2, "transform": ImageTransform(16, 8)}
    whole = batches(shards, 14, 5, **options)
    for start in (1, 4, 11):
        for batch, wanted in zip(batches(shards, 3, 5, start, **options), whole[start:], strict=False):
            assert (batch.index, batch.keys) == (wanted.index, wanted.keys)
            assert torch.equal(batch.images, wanted.images)


def test_a_lane_of_ones_own_is_read_by_nobody_else(shards: list[Shard]) -> None:
    options = {"lanes": 2, "chunk": 4, "world_size": 2}
    first, second = (set(keys(batches(shards, 2, 4, rank=rank, **options))) for rank in (0, 1))
    assert len(first | second) == 16
    streams = [ShardStream(shards, ImageTransform(16), 4, 3, rank=rank, **options) for rank in (0, 1)]
    lanes = [
        {(p // 4) % 2 for i in range(9) for p in range((i * 2 + s.rank) * 4, (i * 2 + s.rank) * 4 + 4)} for s in streams
    ]
    assert lanes == [{0}, {1}]


@pytest.mark.filterwarnings("ignore:.*suggested max number of worker.*")
def test_workers_deliver_in_order(shards: list[Shard]) -> None:
    stream = ShardStream(shards, ImageTransform(16), 5, 3, start=3, lanes=2)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
    assert keys(list(itertools.islice(loader, 5))) == keys(batches(shards, 5, 5, start=3, lanes=2))


def test_low_resolution_pictures_come_with_the_data(shards: list[Shard]) -> None:
    options = {"transform": ImageTransform(32), "degrade": Degradation(scale=4)}
    (whole,) = batches(shards, 1, 8, **options)
    halves = batches(shards, 2, 4, **options)
    assert whole.cond.low_res is not None
    assert whole.cond.low_res.shape == (8, 3, 8, 8)
    assert torch.equal(torch.cat([half.cond.low_res for half in halves]), whole.cond.low_res)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": 4}, "3 shards cannot be dealt to 4 lanes"),
        ({"lanes": 0}, "lanes must be positive, got 0"),
        ({"chunk": 0}, "chunk must be positive, got 0"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
    ],
)
def test_bad_sizes_are_named(shards: list[Shard], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardStream(shards, ImageTransform(16), **{"batch_size": 4, "seed": 0, **options})


def test_a_step_that_batches_do_not_make_is_refused(shard_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"says 12 samples a step, but batches of 4 .* are 4: .*batches 3 would do"):
        _ = ShardData(shard_folder, shard_folder, 16, batch_size=4, step_size=12).samples_per_step
    with pytest.raises(ValueError, match="10 is no multiple of 4, so change batch_size"):
        _ = ShardData(shard_folder, shard_folder, 16, batch_size=4, step_size=10).samples_per_step


def told(folder: Path, place: Path, **changes: dict[str, object]) -> Path:
    """The same shards, whose index tells other things of their encoders."""
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    index = json.loads((place / "index.json").read_text())
    for source, change in changes.items():
        of = index["encoders"][source]
        index["encoders"][source] = ({"name": of} if isinstance(of, str) else of) | change
    del index["sha256"]
    (place / "index.json").write_text(json.dumps(index))
    return place


def test_a_crop_is_as_large_as_the_image_at_most(shard_folder: Path) -> None:
    assert ShardData(shard_folder, shard_folder, 16, 16).transform == ImageTransform(16, 16)
    for size in (0, 17):
        with pytest.raises(ValueError, match=f"crop_size must be in 1 to image_size .16., got {size}"):
            ShardData(shard_folder, shard_folder, 16, size)
    for size, crop, name in ((18, None, "image_size"), (16, 10, "crop_size")):
        with pytest.raises(
            ValueError, match=rf"{name} must be a multiple of degradation.scale \(4\), got {crop or size}"
        ):
            ShardData(shard_folder, shard_folder, size, crop, degradation=Degradation(scale=4))


def test_validation_sees_the_same_first_batches_each_time(shard_folder: Path, shards: list[Shard]) -> None:
    data = ShardData(shard_folder, shard_folder, 16, batch_size=4, val_batches=3, seed=3, lanes=3)
    wanted = keys(batches(shards, 3, 4, seed=0))
    assert len(data.val_dataloader()) == 3
    assert keys(list(data.val_dataloader())) == keys(list(data.val_dataloader())) == wanted


def test_training_starts_at_the_step_of_the_trainer(shard_folder: Path, shards: list[Shard]) -> None:
    data = ShardData(shard_folder, shard_folder, 16, batch_size=4, seed=3)
    here = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_step=3, accumulate_grad_batches=2, global_rank=1, world_size=2, strategy=here)
    (batch,) = itertools.islice(data.train_dataloader(), 1)
    (wanted,) = batches(shards, 1, 4, start=6, rank=1, world_size=2)
    assert (batch.index, batch.keys) == (6, wanted.keys)


def test_embeddings_travel_as_they_are_stored(shards: list[Shard]) -> None:
    """In bfloat16, and in float32 on the device of the stage, with the same values."""
    (batch,) = batches(shards, 1, 4)
    moved = ShardData("unread", "unread", 16).transfer_batch_to_device(batch, torch.device("cpu"), 0)
    for name, source in batch.cond.sources.items():
        assert source.tokens.dtype == torch.bfloat16
        assert moved.cond.sources[name].tokens.dtype == torch.float32
        assert torch.equal(moved.cond.sources[name].tokens, source.tokens.float())
        assert moved.cond.sources[name].mask.dtype == torch.bool
    assert batch.images.dtype == moved.images.dtype == torch.float32


def test_what_waits_for_a_gpu_is_pinned(shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of a batch; without CUDA, torch cannot pin, so what it is asked is looked at."""
    (batch,) = batches(shards, 1, 4)
    asked: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: asked.append(id(tensor)) or tensor)
    pinned = batch.pin_memory()
    tensors = [batch.images]
    for source in batch.cond.sources.values():
        tensors += [t for t in (source.tokens, source.mask, source.pooled, source.weight) if t is not None]
    assert sorted(asked) == sorted(map(id, tensors))
    assert pinned.keys == batch.keys


def test_embeddings_of_other_encoders_are_refused(shard_folder: Path, tmp_path: Path) -> None:
    """Between training and validation, against the network, and against the checkpoint of the run."""
    one = told(shard_folder, tmp_path / "one", t5={"width": 128, "sha256": "aa"})
    two = told(shard_folder, tmp_path / "two", t5={"width": 64, "sha256": "bb"})
    with pytest.raises(ValueError, match=r"the embeddings 't5' .*two.* are of another encoder: "):
        ShardData(one, two, 16).setup("fit")
    ShardData(one, one, 16).setup("fit")
    state = ShardData(one, one, 16).state_dict()
    ShardData(one, one, 16).load_state_dict(state)
    with pytest.raises(ValueError, match=r"are of another encoder: "):
        ShardData(two, two, 16).load_state_dict(state)
