"""The data of a training run, as a LightningDataModule."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from ediffi.data.degradation.degrade import Degradation
from ediffi.data.index import Index, check_background, check_embeddings, check_sizes
from ediffi.data.loader import ContinuedLoader, FirstBatches, leave_signals
from ediffi.data.shards import caption_of, reject_for_embedding
from ediffi.data.skipped import SkippedSamples
from ediffi.data.stream import Batch, ImageTransform, Resize, ShardStream
from ediffi.data.tar import Tally, read_samples
from ediffi.io.images import color
from ediffi.io.urls import redact
from ediffi.registry.denoisers.conditioning import widths

logger = logging.getLogger(__name__)


class ShardData(L.LightningDataModule):
    """Training and validation batches from folders of shards.

    Which samples a step sees is a function of (seed, step) and of the number of samples a step has: not of how many
    processes, accumulated batches and workers share them. A run resumed from a checkpoint sees the samples it would
    have seen.

    Args:
        train: folder or URL of training shards, with their index.
        val: folder or URL of validation shards.
        image_size: side of the square that an image is averaged down to.
        crop_size: side of a random crop, for stages that train on crops; None for whole images.
        batch_size: samples a batch and process.
        step_size: samples a step, over all processes and accumulated batches; None for what batch_size makes.
        val_batches: batches of a validation run.
        seed: of the order, the crops and the degradation in training; None for the run's `seed_everything`, in Python
            for 0. Validation shows the same samples with every seed.
        num_workers: loader processes.
        lanes: shards read side by side; a multiple of processes times workers saves reading them more than once. A run
            that is resumed with others reads its epoch to the end as before, and the next epochs with these.
        read_ahead: read the next shard of each lane while this one is used: no step waits for a shard, for twice the
            memory (`ediffi plan`).
        chunk: samples from one lane before the next; best the batch_size, and then left as it is.
        degradation: of the low-resolution images, in the loader; None for the stage's own `low_res`. A crop is degraded
            with what is around it.
        resize: "center_crop" averages the shortest side down to image_size and cuts out the centre; "pad" shows the
            whole image, its longest side averaged down (never enlarged), on a square of the background.
        horizontal_flip: probability of mirroring a training image, a function of seed and position. Captions that say
            left or right, and embeddings of the image (clip_image), are those of the image as it was.
        max_skipped: share of the samples that may be unreadable, too small or incomplete. They are named, counted, and
            replaced by others; more of them end the run, before it begins where the index knows them.
        skip_small: leave out images smaller than image_size, however many, with a warning that counts them. The index
            must record their sizes (`ediffi data index` completes an old one).
        background: the colour (a name, or a code such as "#ff8800") that transparent images are laid on.
        embedded: read embeddings, which all samples must have; false to train an encoder.
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
        seed: int | None = None,
        num_workers: int = 0,
        lanes: int = 1,
        chunk: int = 1,
        degradation: Degradation | None = None,
        resize: Resize = "center_crop",
        horizontal_flip: float = 0.0,
        max_skipped: float = 0.001,
        skip_small: bool = False,
        background: str = "white",
        embedded: bool = True,
        read_ahead: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"image_size": image_size, "batch_size": batch_size, "val_batches": val_batches}
        for name, value in {**sizes, "lanes": lanes, "chunk": chunk}.items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        workers = max(64, 4 * (os.cpu_count() or 1))
        most = {"image_size": 16384, "batch_size": 65536, "chunk": 65536, "num_workers": workers}
        given = {"image_size": image_size, "batch_size": batch_size, "chunk": chunk, "num_workers": num_workers}
        for name, value in given.items():
            if value > most[name]:
                raise ValueError(f"{name} must be at most {most[name]} on this machine, got {value}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        if crop_size is not None and not 0 < crop_size <= image_size:
            raise ValueError(f"crop_size must be in 1 to image_size ({image_size}), got {crop_size}")
        for name, value in {"image_size": image_size, "crop_size": crop_size or image_size}.items():
            if degradation is not None and value % degradation.scale:
                raise ValueError(f"{name} must be a multiple of degradation.scale ({degradation.scale}), got {value}")
        if not 0 <= horizontal_flip <= 1:
            raise ValueError(f"horizontal_flip must be in [0, 1], got {horizontal_flip}")
        if not 0 <= max_skipped <= 1:
            raise ValueError(f"max_skipped must be in [0, 1], got {max_skipped}")
        if skip_small and resize == "pad":
            raise ValueError("skip_small is for resize: center_crop; where images are padded, none is too small")
        self.folders = {"train": str(train), "val": str(val)}
        self.background, self.degradation, self.skip_small = background, degradation, skip_small
        self.transform = ImageTransform(image_size, crop_size, color(background), resize)
        self.batch_size, self.step_size, self.val_batches = batch_size, step_size, val_batches
        self.seed, self.num_workers, self.lanes, self.chunk = seed, num_workers, lanes, chunk
        self.embedded, self.horizontal_flip, self.max_skipped = embedded, horizontal_flip, max_skipped
        self.read_ahead = read_ahead
        self._skipped: dict[str, SkippedSamples] = {}
        self._indexes: dict[str, Index] = {}
        self._earlier_lanes: list[tuple[int, int]] = []

    @property
    def samples_per_step(self) -> int:
        """Samples of an optimiser step over all processes and accumulated batches; ValueError if not `step_size`."""
        world_size, accumulated = 1, 1
        if self.trainer is not None:
            world_size, accumulated = self.trainer.world_size, self.trainer.accumulate_grad_batches
        share = self.batch_size * world_size
        if self.step_size not in (None, share * accumulated):
            hint = f"trainer.accumulate_grad_batches {self.step_size // share} would do"
            if self.step_size % share:
                hint = f"{self.step_size} is no multiple of {share}, so change batch_size or the number of processes"
            batches = f"batches of {self.batch_size} on {world_size} processes, {accumulated} a step"
            made = f"but {batches}, are {share * accumulated}"
            raise ValueError(f"data.step_size says {self.step_size} samples a step, {made}: {hint}")
        return share * accumulated

    def setup(self, stage: str) -> None:
        """Check the size of a step, the sizes of the images, and which encoders made the embeddings, before anything
        runs. ValueError: batches do not make the step; too many images are too small or broken; the encoders of
        training and validation differ, or their embeddings have another width than the network reads, or are of images
        on another background."""
        self._indexes = {}
        indexes = [self._index(part) for part in (("train", "val") if stage == "fit" else ("val",))]
        for index in indexes:
            if self.embedded:
                check_background(index, self.background)
            check_sizes(index, self.transform.least_side, self.skip_small, self.max_skipped)
        read = widths(self.trainer.lightning_module) if self.trainer is not None and self.embedded else {}
        for index in indexes:
            if index.encoders:  # an old index does not record them, and the first batch is asked
                check_embeddings(index, read)
        if stage != "fit":
            return
        assert self.samples_per_step
        self.check_limits()
        train, val = indexes
        if self.embedded and val.encoders:
            check_embeddings(val, train.identities, train.dtype)

    def _index(self, part: str) -> Index:
        """Read once a run: what a checkpoint records must be the shards that are read, not those there are by then."""
        if part not in self._indexes:
            self._indexes[part] = Index.read(self.folders[part])
        return self._indexes[part]

    def check_limits(self) -> None:
        """ValueError: the trainer would show batches twice, or take a step of fewer samples than the others."""
        if self.trainer is None:
            return
        if overfit := self.trainer.overfit_batches:  # type: ignore[attr-defined]
            ways = "train on shards of so few samples instead"
            raise ValueError(f"trainer.overfit_batches {overfit}: a run never shows a batch again, so {ways}")
        if self.trainer.check_val_every_n_epoch == 0:
            raise ValueError("trainer.check_val_every_n_epoch must be at least 1, or null, got 0")
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, BatchSizeFinder | GradientAccumulationScheduler):
                rest = "would change how many samples a step has, which is the recipe's: leave it out"
                raise ValueError(f"the callback {type(callback).__name__} {rest}")
        limit, accumulated = self.trainer.limit_train_batches, self.trainer.accumulate_grad_batches
        if limit == 0:
            raise ValueError("trainer.limit_train_batches must be at least 1, or 1.0 for all, got 0")
        if isinstance(limit, int) and limit % accumulated:
            made = f"accumulate_grad_batches {accumulated} batches make a step"
            raise ValueError(f"trainer.limit_train_batches {limit} must be whole steps, and trainer.{made}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint records of the data; with the step, it gives the position in the stream."""
        index = self._index("train")
        step = self.trainer.global_step if self.trainer else 0
        return {
            "samples_per_step": self.samples_per_step,
            "encoders": index.identities if self.embedded else {},
            "folder": self.folders["train"],
            "shards": index.digest(self.transform.least_side),
            "position": step * self.samples_per_step,
            "lanes": {"now": self.lanes, "earlier": self._earlier_lanes},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a step is as large as in the checkpoint, of the same shards, and of embeddings of the same
        encoders; else ValueError. Shards of another folder, which the recipe names, may be others."""
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        if (was := state_dict["samples_per_step"]) != (now := self.samples_per_step):
            advice = "keep the product of data.batch_size, processes and trainer.accumulate_grad_batches"
            raise ValueError(f"the checkpoint is of a run with {was} samples a step, this one has {now}: {advice}")
        index = self._index("train")
        check_embeddings(index, state_dict.get("encoders", {}))
        same = state_dict.get("shards") in (None, index.digest(self.transform.least_side))  # None of earlier versions
        if not same and state_dict["folder"] == self.folders["train"]:
            advice = "give new shards a folder of their own, and name it with --data.train and --ckpt_path last"
            raise ValueError(f"the shards in {redact(index.url)} are not those that this run was trained on: {advice}")
        if not same:
            logger.warning("from here on, the run trains on the shards of %s", redact(index.url))
        if "lanes" in state_dict:
            self._change_lanes(state_dict["position"], **state_dict["lanes"])
        else:
            logger.warning("the checkpoint does not record data.lanes; its epoch is read once if they are as they were")

    def _change_lanes(self, position: int, now: int, earlier: Sequence[Sequence[int]]) -> None:
        """Go on with the lanes of a checkpoint (`now`) to the end of its epoch, which other lanes would mix up."""
        self._earlier_lanes = [(epoch, lanes) for epoch, lanes in earlier]
        if now == self.lanes:
            return
        shards = self._index("train").shards
        epoch = -(-position // sum(shard.samples_from(self.transform.least_side) for shard in shards))
        self._earlier_lanes.append((epoch, now))
        logger.info("data.lanes were %d: this epoch goes on with them, and epoch %d has %d", now, epoch, self.lanes)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless; every pass starts at the trainer's step."""
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        options = {"num_workers": self.num_workers, "pin_memory": pin, "worker_init_fn": leave_signals}
        return ContinuedLoader(self._stream("train", 0), self._batches_done, batch_size=None, **options)

    def _batches_done(self) -> int:
        """Lightning's global_step counts optimiser steps; the stream counts batches."""
        return self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count the samples that were skipped, with the other processes. ValueError: there are too many."""
        assert self.trainer is not None
        part = "train" if self.trainer.training else "val"
        if part not in self._skipped:
            least, shards = self.transform.least_side, self._index(part).shards
            self._skipped[part] = SkippedSamples(self.max_skipped, sum(shard.samples_from(least) for shard in shards))
        self._skipped[part].add(batch, self.trainer.world_size, self._total)
        return batch

    def _total(self, count: int) -> int:
        """A count, summed over all processes."""
        assert self.trainer is not None
        strategy = self.trainer.strategy
        return int(strategy.reduce(torch.tensor(count, device=strategy.root_device), reduce_op="sum"))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """To CUDA without waiting: the copy is queued before the kernels that need it."""
        return batch.to(device, non_blocking=device.type == "cuda").float()

    def val_dataloader(self) -> DataLoader[Batch]:
        """The same `val_batches` batches each time."""
        return DataLoader(FirstBatches(self._stream("val", 0), self.val_batches), batch_size=None)

    def captions(self) -> Iterator[str]:
        """All training captions, in the order of the shards."""
        for shard in self._index("train").shards:
            yield from map(caption_of, read_samples(shard.url, Tally(), reject_for_embedding))

    def _stream(self, part: str, start: int) -> ShardStream:
        seed = (self.seed or 0) if part == "train" else 0
        rank, size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        shards, lanes = self._index(part).shards, self.lanes if part == "train" else 1
        return ShardStream(
            shards, self.transform, self.batch_size, seed, start, rank, size, lanes, self.chunk, self.degradation,
            least_side=self.transform.least_side, embedded=self.embedded,
            horizontal_flip=self.horizontal_flip if part == "train" else 0.0,
            read_ahead=self.read_ahead and part == "train",
            earlier=self._earlier_lanes if part == "train" else (),
        )  # fmt: skip
