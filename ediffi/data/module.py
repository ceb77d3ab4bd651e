"""The data of a training run."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ediffi.data.degradation.degrade import Degradation
from ediffi.data.index import Index, check_embeddings, check_same_encoders, read_index
from ediffi.data.stream import Batch, Picture, ShardStream
from ediffi.registry.denoisers.conditioning import ConditionEmbedding

IDENTITY = ("name", "sha256", "revision", "width", "pooled_width")
"""What of an encoder has to stay while a run goes on."""


class ShardData(L.LightningDataModule):
    """Training and validation batches from folders of shards.

    Which samples a step sees is a function of (seed, step) and of how many samples a step has: not of how many
    processes, accumulated batches and workers they are dealt to. A run resumed from a checkpoint goes on with the very
    samples it would have seen.

    Args:
        train: folder or URL of training shards, with its index.
        val: folder or URL of validation shards.
        image_size: the shortest side is averaged down to it and the centre cut out.
        crop_size: side of a random crop, for stages that train on crops; None for whole pictures.
        batch_size: samples a batch and process.
        step_size: samples a step, over all processes and accumulated batches; None for what batch_size makes.
        val_batches: batches of a validation run.
        seed: of the order, the crops and the degradation.
        num_workers: loader processes.
        lanes: shards read side by side; a multiple of processes times workers saves reading them more than once.
        chunk: samples from one lane before the next; best the batch_size, and then left as it is.
        degradation: of the low-resolution pictures, in the loader; None for the stage's own `low_res`.

    Raises:
        ValueError: a size or a count is not positive.
    """

    def __init__(
        self,
        train: str | Path,
        val: str | Path,
        image_size: int,
        crop_size: int | None = None,
        batch_size: int = 128,
        step_size: int | None = None,
        val_batches: int = 8,
        seed: int = 0,
        num_workers: int = 0,
        lanes: int = 1,
        chunk: int = 1,
        degradation: Degradation | None = None,
    ) -> None:
        super().__init__()
        positive = {"image_size": image_size, "batch_size": batch_size, "val_batches": val_batches, "lanes": lanes}
        for name, value in (positive | {"chunk": chunk}).items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if crop_size is not None and not 0 < crop_size <= image_size:
            raise ValueError(f"crop_size must be in 1 to image_size ({image_size}), got {crop_size}")
        self.folders = {"train": str(train), "val": str(val)}
        self.picture, self.degradation = Picture(image_size, crop_size), degradation
        self.batch_size, self.step_size, self.val_batches = batch_size, step_size, val_batches
        self.seed, self.num_workers, self.lanes, self.chunk = seed, num_workers, lanes, chunk

    @property
    def samples_per_step(self) -> int:
        """Samples of an optimiser step: batch, processes and accumulation together.

        Raises:
            ValueError: they do not make the `step_size` that the recipe says.
        """
        world_size, accumulated = 1, 1
        if self.trainer is not None:
            world_size, accumulated = self.trainer.world_size, self.trainer.accumulate_grad_batches
        together = self.batch_size * world_size * accumulated
        if self.step_size not in (None, together):
            share = self.batch_size * world_size
            hint = (
                f"trainer.accumulate_grad_batches {self.step_size // share} would do"
                if self.step_size % share == 0
                else f"{self.step_size} is no multiple of {share}, so change batch_size or the number of processes"
            )
            raise ValueError(
                f"data.step_size says {self.step_size} samples a step, but batches of {self.batch_size} on {world_size}"
                f" processes, {accumulated} a step, are {together}: {hint}"
            )
        return together

    def setup(self, stage: str) -> None:
        """Make sure of the size of a step, and of whose embeddings the shards hold, before anything runs.

        Raises:
            ValueError: batches do not make the step; the encoders of training and validation are not the same, or
                their embeddings not of the width that the network reads.
        """
        if stage != "fit":
            return
        assert self.samples_per_step
        train, val = (Index.read(self.folders[part]) for part in ("train", "val"))
        check_same_encoders(train, val)
        if self.trainer is not None:
            read = widths(self.trainer.lightning_module)
            check_embeddings(train, {source: read[source] for source in read if source in train.encoders})

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to know of the data: with the step, where in the stream a run stands."""
        encoders = Index.read(self.folders["train"]).encoders
        known = {source: {k: v for k, v in of.items() if k in IDENTITY} for source, of in encoders.items()}
        return {"samples_per_step": self.samples_per_step, "encoders": known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that a step is as large as it was, and its embeddings of the same encoders.

        Raises:
            ValueError: a step is not, so that the run would repeat or leave out samples; or an encoder is another.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        if (was := state_dict["samples_per_step"]) != (now := self.samples_per_step):
            raise ValueError(
                f"the checkpoint is of a run with {was} samples a step, this one has {now}: keep the product of "
                "data.batch_size, processes and trainer.accumulate_grad_batches"
            )

        check_embeddings(Index.read(self.folders["train"]), state_dict.get("encoders", {}))

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
        lanes = self.lanes if part == "train" else 1
        return ShardStream(
            shards, self.picture, self.batch_size, self.seed, start, rank, world_size, lanes, self.chunk,
            self.degradation,
        )  # fmt: skip

    def _loader(self, dataset: IterableDataset[Batch]) -> DataLoader[Batch]:
        return DataLoader(
            dataset, batch_size=None, num_workers=self.num_workers if isinstance(dataset, ShardStream) else 0
        )


def widths(stage: nn.Module) -> dict[str, dict[str, int]]:
    """By source, "width" of the tokens and "pooled_width" that a stage's network reads."""
    found: dict[str, dict[str, int]] = {}
    for module in stage.modules():
        if isinstance(module, ConditionEmbedding):
            for what, layers in (("width", module.tokens), ("pooled_width", module.pooled)):
                for source, layer in layers.items():
                    first = next(part for part in layer.modules() if isinstance(part, nn.Linear))
                    found.setdefault(source, {})[what] = first.in_features
    return found


class Head(IterableDataset[Batch]):
    """The first `count` batches of a stream."""

    def __init__(self, stream: ShardStream, count: int) -> None:
        self.stream, self.count = stream, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.stream, self.count)
