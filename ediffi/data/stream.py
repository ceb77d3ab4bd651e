"""An endless stream of batches in which the sample at a position is the same, whichever process reads it.

Sample `p` of a run is a function of (seed, p): not of the number of processes, batches a step or loader workers. So a
run may resume with half of its GPUs and twice the accumulation, and sees the samples it would have seen.

Every epoch shows every sample once, whatever the sizes of the shards (see `Order`). It shuffles the shards and deals
them to `lanes`; positions go round the lanes, `chunk` samples from each. One lane is read by every process; with many
processes, each should have lanes of its own, so that a shard is read once (see `ShardStream`).

A sample that cannot be trained on is replaced by the next one of its shard that can, and named in the batch. So the
sample of a position is the same whichever process meets it, and no batch is smaller than another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ediffi.data.degradation.degrade import REACH, Degradation, random_source
from ediffi.data.index import Shard
from ediffi.data.lanes import LaneReader
from ediffi.data.order import Order
from ediffi.data.shards import Sample, collate_embeddings, decode, load_shard
from ediffi.data.tar import RawSample
from ediffi.io.images import WHITE, Color, crop_to_tensor, pad_to_tensor, to_tensor
from ediffi.io.urls import redact
from ediffi.registry.random import Philox, rand
from ediffi.registry.types import Conditioning

Resize = Literal["center_crop", "pad"]


@dataclass(frozen=True)
class Batch:
    """What a stage trains on: images [b, 3, h, w] in [-1, 1], embeddings, and the samples' keys and captions. `index`
    is the position of the batch in the stream of its rank; training noise is drawn from it. `skipped` has a sentence
    for each sample that cannot be trained on, and was replaced.

    Embeddings stay in the bfloat16 of the shards, half the bytes, until `float`.
    """

    images: Float[Tensor, "b 3 h w"]
    cond: Conditioning
    keys: list[str]
    captions: list[str]
    index: int
    skipped: tuple[str, ...] = ()

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """Move the tensors, as `Tensor.to`."""
        return replace(self, images=self.images.to(*args, **kwargs), cond=self.cond.to(*args, **kwargs))

    def pin_memory(self) -> "Batch":
        """In memory from which a GPU copies while the host goes on; `DataLoader` calls it."""
        return replace(self, images=self.images.pin_memory(), cond=self.cond.apply(Tensor.pin_memory))

    def float(self) -> "Batch":
        """Everything in float32, as networks take it; the precision of training is the trainer's choice."""
        as_float = self.cond.apply(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
        return replace(self, images=self.images.float(), cond=as_float)


@dataclass(frozen=True)
class ImageTransform:
    """How an image becomes a training tensor: laid on `background` where it is transparent; made a square, by cutting
    its ends off or by padding it with the background; averaged down to `size`; then a random `crop` of that."""

    size: int
    crop: int | None = None
    background: Color = WHITE
    resize: Resize = "center_crop"

    @property
    def least_side(self) -> int:
        """The shortest side that an image must have."""
        return self.size if self.resize == "center_crop" else 1

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Float[Tensor, "3 h w"]:
        """Tensor [3, crop or size, ...] in [-1, 1]. ValueError: the image is too small."""
        return self.with_margin(sample, rng, 0, 1)[0]

    def with_margin(
        self, sample: Sample, rng: np.random.Generator, margin: int, grid: int
    ) -> tuple[Float[Tensor, "3 h w"], tuple[int, int]]:
        """The crop with `margin` pixels around it, as far as the image has them, and where it begins in that: top and
        left. It begins at a multiple of `grid`, which divides all sizes."""
        if self.crop is None and self.resize == "center_crop":
            return to_tensor(sample.image, self.size), (0, 0)
        crop = self.crop or self.size
        corner = [int(place) * grid for place in rng.integers(0, (self.size - crop) // grid + 1, size=2)]
        side = min(self.size, crop + 2 * margin)
        top, left = (min(max(0, place - margin), self.size - side) for place in corner)
        inner = corner[0] - top, corner[1] - left
        if self.resize == "center_crop":
            return crop_to_tensor(sample.image, self.size, top, left, side), inner
        whole = pad_to_tensor(sample.image, self.size, self.background)
        return whole[:, top : top + side, left : left + side], inner


@dataclass(eq=False)
class ShardStream(IterableDataset[Batch]):
    """Batches of one process, from batch `start` on, without end; ValueError if there are fewer shards than lanes.

    Batch `i` of rank `r` of `n` holds the samples from position `(i·n + r)·batch_size` on. With `chunk = batch_size`
    and `lanes` a multiple of processes times workers, every worker reads `lanes / (processes · workers)` lanes that no
    other worker reads; it keeps one shard of each in memory, and with `read_ahead` the next one too.

    `earlier` has the lanes of the epochs before this run was resumed with others (`Order`).

    Images whose shortest side is below `least_side`, or that cannot be read, are left out where the index records it.
    Unless they must be `embedded`, samples need no embeddings, and `cond` has none.

    An image is mirrored with the probability `horizontal_flip`. `degrade` makes the low-resolution images of
    `cond.low_res`, those of a crop from the image around it; None leaves that to the stage.
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
    degrade: Degradation | None = None
    least_side: int = 0
    embedded: bool = True
    horizontal_flip: float = 0.0
    read_ahead: bool = False
    earlier: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "lanes", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if (count := len(self.shards)) < self.lanes:
            raise ValueError(f"{count} shards cannot be dealt to {self.lanes} lanes; use fewer, or smaller shards")

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        sizes = [shard.samples_from(self.least_side) for shard in self.shards]
        order = Order(sizes, self.seed, self.lanes, self.chunk, self.earlier)
        reader = LaneReader(order, self._read, self.read_ahead)
        try:
            # The loader asks its workers in turn, beginning with worker 0, which must give batch `start`.
            for index in count(self.start + worker, workers):
                first = (index * self.world_size + self.rank) * self.batch_size
                yield self._batch(index, range(first, first + self.batch_size), reader)
        finally:
            reader.close()

    def _read(self, number: int) -> list[RawSample]:
        return load_shard(self.shards[number], self.least_side, self.embedded)

    def _batch(self, index: int, positions: range, reader: LaneReader) -> Batch:
        skipped: list[str] = []
        flips = rand((len(positions),), Philox(self.seed, positions, "flip")) < self.horizontal_flip
        samples, images, low_res = [], [], []
        for position, flip in zip(positions, flips.tolist(), strict=True):
            sample, image, corner = self._example(position, reader, skipped)
            samples.append(sample)
            if self.degrade is None:
                images.append(image.flip(-1) if flip else image)
            else:
                pair = self._degraded(image, corner, flip, random_source(self.seed, position), self.degrade)
                images.append(pair[0])
                low_res.append(pair[1])
        return Batch(
            images=torch.stack(images),
            cond=Conditioning(
                collate_embeddings([sample.embeddings for sample in samples]), torch.stack(low_res) if low_res else None
            ),
            keys=[sample.key for sample in samples],
            captions=[sample.caption for sample in samples],
            index=index,
            skipped=tuple(skipped),
        )

    def _degraded(
        self, image: Tensor, corner: tuple[int, int], flip: bool, rng: np.random.Generator, degrade: Degradation
    ) -> tuple[Tensor, Tensor]:
        """The crop of an image that begins at `corner`, and of its low-resolution image."""
        crop = self.transform.crop or self.transform.size
        if flip:
            image, corner = image.flip(-1), (corner[0], image.shape[2] - crop - corner[1])
        pair = []
        for one, scale in ((image, 1), (degrade(image, rng), degrade.scale)):
            top, left = (place // scale for place in corner)
            pair.append(one[:, top : top + crop // scale, left : left + crop // scale])
        return pair[0], pair[1]

    def _example(self, position: int, reader: LaneReader, skipped: list[str]) -> tuple[Sample, Tensor, tuple[int, int]]:
        """The sample at a position, its image, and where the crop to train on begins in that. With `degrade`, the image
        reaches beyond the crop as far as the degradation does."""
        number, rows, place = reader.find(position)
        shard, problem = self.shards[number], ""
        grid = 1 if self.degrade is None else self.degrade.scale
        margin = 0 if self.degrade is None else REACH // grid * grid
        for turn in range(len(rows)):
            raw = rows[(place + turn) % len(rows)]
            # A generator for each position: the crop of a sample must not depend on which process or worker reads it.
            rng = np.random.default_rng([self.seed, position])
            try:
                sample = decode(raw, self.transform.background, self.embedded, shard.encoders)
                return sample, *self.transform.with_margin(sample, rng, margin, grid)
            except ValueError as error:
                problem = f"sample {raw['__key__']!r} of {redact(shard.url)} cannot be trained on: {error}"
                skipped.append(problem)
        raise ValueError(f"{problem}; nor can any other of this shard")
