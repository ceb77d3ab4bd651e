"""An endless stream of batches in which the sample at a position is the same, whichever process reads it.

Sample `p` of a run is a function of (seed, p): not of the number of processes, batches a step or loader workers. So a
run may resume with half of its GPUs and twice the accumulation, and sees the samples it would have seen.

Every epoch shuffles the shards and deals them to `lanes`; a lane shuffles within each of its shards. Positions go
round the lanes, `chunk` samples from each. One lane is always correct, and is read by every process; with many
processes, each should have lanes of its own, so that a shard is read once (see `ShardStream`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ediffi.data.degradation.degrade import random_source
from ediffi.data.index import Shard
from ediffi.data.shards import Sample, collate_embeddings, decode, load_shard
from ediffi.data.tar import RawSample
from ediffi.io.images import crop_to_tensor, to_tensor
from ediffi.registry.types import Conditioning

Degrade = Callable[[Tensor, np.random.Generator], Tensor]
"""Makes the low-resolution image [3, h, w] of a training image [3, H, W], drawing from the generator."""


@dataclass(frozen=True)
class Batch:
    """What a stage trains on: images [b, 3, h, w] in [-1, 1], embeddings, and the samples' keys and captions. `index`
    is the position of the batch in the stream of its rank; training noise is drawn from it."""

    images: Float[Tensor, "b 3 h w"]
    cond: Conditioning
    keys: list[str]
    captions: list[str]
    index: int

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """Move the tensors, as `Tensor.to`."""
        return replace(self, images=self.images.to(*args, **kwargs), cond=self.cond.to(*args, **kwargs))


@dataclass(frozen=True)
class ImageTransform:
    """How an image becomes a training tensor: averaged down to a square of `size`, then a random `crop` of that."""

    size: int
    crop: int | None = None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Float[Tensor, "3 h w"]:
        """Tensor [3, crop or size, ...] in [-1, 1]."""
        if self.crop is None:
            return to_tensor(sample.image, self.size)
        top, left = rng.integers(0, self.size - self.crop + 1, size=2)
        return crop_to_tensor(sample.image, self.size, int(top), int(left), self.crop)


class Lane:
    """Lane `number` of `lanes`: an endless sequence of samples, read forwards; it keeps one shard in memory."""

    def __init__(self, shards: list[Shard], seed: int, number: int, lanes: int) -> None:
        self.shards, self.seed, self.number, self.lanes = shards, seed, number, lanes
        self._order = self._shards()
        self._epoch, self._shard = next(self._order)
        self._before = 0  # samples of the lane before its current shard
        self._raw: list[RawSample] | None = None

    def sample(self, position: int) -> Sample:
        """The sample at a position, which must not lie before the shard of the last one."""
        assert position >= self._before, "a lane is read forwards"
        while position >= self._before + self.shards[self._shard].samples:
            self._before += self.shards[self._shard].samples
            self._epoch, self._shard = next(self._order)
            self._raw = None
        if self._raw is None:
            self._raw = load_shard(self.shards[self._shard])
            self._within = np.random.default_rng([self.seed, self._epoch, self._shard]).permutation(len(self._raw))
        return decode(self._raw[self._within[position - self._before]])

    def _shards(self) -> Iterator[tuple[int, int]]:
        for epoch in count():
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
            yield from ((epoch, int(number)) for number in order[self.number :: self.lanes])


@dataclass(eq=False)
class ShardStream(IterableDataset[Batch]):
    """Batches of one process, from batch `start` on, without end; ValueError if there are fewer shards than lanes.

    Batch `i` of rank `r` of `n` holds the samples from position `(i·n + r)·batch_size` on. With `chunk = batch_size`
    and `lanes` a multiple of processes times workers, every worker reads `lanes / (processes · workers)` lanes that no
    other worker reads; it keeps one shard of each in memory.

    `degrade` makes the low-resolution images of `cond.low_res`; None leaves that to the stage.
    """

    shards: list[Shard]
    transform: ImageTransform
    batch_size: int
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1
    lanes: int = 1
    chunk: int = 1
    degrade: Degrade | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "lanes", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if (count := len(self.shards)) < self.lanes:
            raise ValueError(f"{count} shards cannot be dealt to {self.lanes} lanes; use fewer, or smaller shards")

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        lanes: dict[int, Lane] = {}
        # The loader asks its workers in turn, beginning with worker 0, which must give batch `start`.
        for index in count(self.start + worker, workers):
            first = (index * self.world_size + self.rank) * self.batch_size
            yield self._batch(index, range(first, first + self.batch_size), lanes)

    def _batch(self, index: int, positions: range, lanes: dict[int, Lane]) -> Batch:
        samples = [self._sample(position, lanes) for position in positions]
        # A generator for each position: the crop of a sample must not depend on which process or worker reads it.
        generators = [np.random.default_rng([self.seed, position]) for position in positions]
        images = [self.transform(sample, rng) for sample, rng in zip(samples, generators, strict=True)]
        low_res = None
        if self.degrade is not None:
            sources = (random_source(self.seed, position) for position in positions)
            low_res = torch.stack([self.degrade(image, rng) for image, rng in zip(images, sources, strict=True)])
        return Batch(
            images=torch.stack(images),
            cond=Conditioning(collate_embeddings([sample.embeddings for sample in samples]), low_res),
            keys=[sample.key for sample in samples],
            captions=[sample.caption for sample in samples],
            index=index,
        )

    def _sample(self, position: int, lanes: dict[int, Lane]) -> Sample:
        turn, within = divmod(position, self.chunk)
        around, number = divmod(turn, self.lanes)
        if number not in lanes:
            lanes[number] = Lane(self.shards, self.seed, number, self.lanes)
        return lanes[number].sample(around * self.chunk + within)
