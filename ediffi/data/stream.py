"""An endless stream of batches, a pure function of (seed, reader, position), so that a run can be resumed exactly.

Each epoch shuffles the shards, deals them to the readers (workers of all ranks), and shuffles within each shard. Sample
counts are known from the index, so any position is reached by arithmetic and at most one shard is read in vain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ediffi.data.picture import to_tensor
from ediffi.data.shards import Sample, Shard, collate_embeddings, decode, whole_shard
from registry.types import Conditioning


@dataclass(frozen=True)
class Batch:
    """What a stage trains on.

    Attributes:
        images: [b, 3, h, w] in [-1, 1].
        cond: the embeddings of captions and pictures.
        keys: the samples' keys.
        captions: the samples' captions.
        index: position of the batch in the stream of its rank; training noise is drawn from it.
    """

    images: Float[Tensor, "b 3 h w"]
    cond: Conditioning
    keys: list[str]
    captions: list[str]
    index: int

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """Move the tensors, as `Tensor.to`."""
        return Batch(
            self.images.to(*args, **kwargs), self.cond.to(*args, **kwargs), self.keys, self.captions, self.index
        )


@dataclass(frozen=True)
class Picture:
    """How a picture becomes a training tensor.

    Args:
        size: the shortest side is averaged down to it and the centre cut out.
        crop: side of a random crop of that; None for the whole.
    """

    size: int
    crop: int | None = None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Float[Tensor, "3 h w"]:
        """Tensor [3, crop or size, ...] in [-1, 1]."""
        image = to_tensor(sample.image, self.size)
        if self.crop is None:
            return image
        top, left = rng.integers(0, self.size - self.crop + 1, size=2)
        return image[:, top : top + self.crop, left : left + self.crop]


class ShardStream(IterableDataset[Batch]):
    """Batches of one rank, from batch `start` on, without end.

    Args:
        shards: all shards of the data set.
        picture: how pictures become tensors.
        batch_size: samples a batch.
        seed: of the order and the crops.
        start: index of the first batch.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ValueError: there are fewer shards than readers (workers times processes), or batch_size is not positive.
    """

    def __init__(
        self,
        shards: list[Shard],
        picture: Picture,
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size <= 0:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.shards, self.picture, self.batch_size, self.seed = shards, picture, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        readers = workers * self.world_size
        if len(self.shards) < readers:
            raise ValueError(f"{len(self.shards)} shards for {readers} readers; use fewer workers or smaller shards")
        # The loader asks its workers in turn from worker 0: the one asked first must give batch `start`.
        first = self.start + worker
        reader = self.rank * workers + first % workers
        samples = self._samples(reader, readers, skip=first // workers * self.batch_size)
        for index in range(first, 2**62, workers):
            chosen = [next(samples) for _ in range(self.batch_size)]
            rng = np.random.default_rng([self.seed, self.rank, index])
            yield Batch(
                images=torch.stack([self.picture(sample, rng) for sample in chosen]),
                cond=Conditioning(collate_embeddings([sample.embeddings for sample in chosen])),
                keys=[sample.key for sample in chosen],
                captions=[sample.caption for sample in chosen],
                index=index,
            )

    def _samples(self, reader: int, readers: int, skip: int) -> Iterator[Sample]:
        epoch = 0
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
            for number in order[reader::readers]:
                shard = self.shards[number]
                if skip >= shard.samples:
                    skip -= shard.samples
                    continue
                raw = whole_shard(shard)
                within = np.random.default_rng([self.seed, epoch, int(number)]).permutation(shard.samples)
                yield from (decode(raw[i]) for i in within[skip:])
                skip = 0
            epoch += 1


_whole_shard = whole_shard  # for lanes.py
