"""How fast a run is, and how long it waits for data."""

import time
from typing import Any

import lightning as L

from ediffi.data.stream import Batch


class Throughput(L.Callback):
    """Logs `train/samples_per_s`, of all processes, and `train/data_wait`, the share of time without a batch here.

    Means over `log_every_n_steps`, without the time of validation and saving. Ours, because Lightning's
    `ThroughputMonitor` measures no waiting.
    """

    def __init__(self) -> None:
        self._waited = self._worked = 0.0
        self._samples = self._logged_at = 0
        self._ended: float | None = None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()
        if self._ended is not None:
            self._waited += self._started - self._ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        waited_for = self._ended is not None  # not so for the first batch after a break
        self._ended = time.perf_counter()
        if waited_for:
            self._worked += self._ended - self._started
            self._samples += len(batch.images) * trainer.world_size
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._samples and step != self._logged_at and step % every == 0:
            spent = self._waited + self._worked
            pl_module.log("train/samples_per_s", self._samples / spent)
            pl_module.log("train/data_wait", self._waited / spent)
            self._logged_at, self._waited, self._worked, self._samples = step, 0.0, 0.0, 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._ended = None
