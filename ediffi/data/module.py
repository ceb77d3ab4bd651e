"""The data of a training run."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader, IterableDataset

from ediffi.data.shards import read_index
from ediffi.data.stream import Batch, Picture, ShardStream


class ShardData(L.LightningDataModule):
    """Training and validation batches from folders of shards.

    The order is a function of (seed, rank, step): a run resumed from a checkpoint goes on with the very batch it would
    have seen.

    Args:
        train: folder of training shards, with its index.
        val: folder of validation shards.
        image_size: the shortest side is averaged down to it and the centre cut out.
        crop_size: side of a random crop, for stages that train on crops; None for whole pictures.
        batch_size: samples a batch and process.
        val_batches: batches of a validation run.
        seed: of the order and the crops.
        num_workers: loader processes.

    Raises:
        ValueError: a size or a count is not positive.
    """

    def __init__(
        self,
        train: Path,
        val: Path,
        image_size: int,
        crop_size: int | None = None,
        batch_size: int = 128,
        val_batches: int = 8,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("image_size", image_size), ("batch_size", batch_size), ("val_batches", val_batches)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if crop_size is not None and not 0 < crop_size <= image_size:
            raise ValueError(f"crop_size must be in 1 to image_size ({image_size}), got {crop_size}")
        self.folders = {"train": Path(train), "val": Path(val)}
        self.picture = Picture(image_size, crop_size)
        self.batch_size, self.val_batches, self.seed, self.num_workers = batch_size, val_batches, seed, num_workers

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless; starts where the trainer stands."""
        trainer = self.trainer
        start = trainer.global_step * trainer.accumulate_grad_batches if trainer else 0
        return self._loader(self._stream("train", start))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The same `val_batches` batches each time."""
        return self._loader(Head(self._stream("val", 0), self.val_batches))

    def _stream(self, part: str, start: int) -> ShardStream:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        shards = read_index(self.folders[part])
        return ShardStream(shards, self.picture, self.batch_size, self.seed, start, rank, world_size)

    def _loader(self, dataset: IterableDataset[Batch]) -> DataLoader[Batch]:
        return DataLoader(
            dataset, batch_size=None, num_workers=self.num_workers if isinstance(dataset, ShardStream) else 0
        )


class Head(IterableDataset[Batch]):
    """The first `count` batches of a stream."""

    def __init__(self, stream: ShardStream, count: int) -> None:
        self.stream, self.count = stream, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.stream, self.count)
