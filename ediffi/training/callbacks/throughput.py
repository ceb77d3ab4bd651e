"""How fast a run is, and how much of its time it waits for data."""

import time
from typing import Any

import lightning as L

from ediffi.data.stream import Batch


class Throughput(L.Callback):
    """Logs samples a second, of all processes, and the share of the time that this one waited for a batch.

    Time spent on validating and saving is left out. Means over `log_every_n_steps`.
    """

    def __init__(self) -> None:
        self._clear()
        self._ended: float | None = None
        self._logged_at = 0

    def _clear(self) -> None:
        self._waited = self._worked = 0.0
        self._samples = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """A batch has come."""
        self._started = time.perf_counter()
        if self._ended is not None:
            self._waited += self._started - self._ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """A batch is done."""
        whole = self._ended is not None  # the first batch after a break has no beginning
        self._ended = time.perf_counter()
        if whole:
            self._worked += self._ended - self._started
            self._samples += len(batch.images) * trainer.world_size
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._samples and step != self._logged_at and step % every == 0:
            self._logged_at, spent = step, self._waited + self._worked
            pl_module.log("train/samples_per_s", self._samples / spent)
            pl_module.log("train/data_wait", self._waited / spent)
            self._clear()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A break."""
        self._ended = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A break."""
        self._ended = None
