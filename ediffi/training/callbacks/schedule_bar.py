"""The progress of a run, or of a whole growth schedule, of which this run is one node."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from ediffi.io.progress import Progress

LOOK_EVERY = 1.0
"""Seconds between two looks at the metrics: on a GPU, reading one waits for all work before it."""
SHOWN = {"loss": "train/loss", "val": "val/loss", "samples/s": "train/samples_per_s"}


class ScheduleBar(ProgressBar):
    """Steps, rate and time left, with the last losses: a bar on a terminal, plain lines elsewhere.

    Lightning's own bar counts epochs, of which a run has one without end, and shows nothing where there is no terminal.

    Args:
        node: what is trained.
        before: steps of the nodes before this one; 0 <= before < total.
        total: steps of the whole schedule; by default those of the run.
    """

    def __init__(self, node: str = "fit", before: int = 0, total: int | None = None) -> None:
        super().__init__()
        if before < 0 or (total is not None and before >= total):
            raise ValueError(f"before must be in 0 to total - 1 ({'' if total is None else total - 1}), got {before}")
        self.node, self.before, self.total = node, before, total
        self._enabled, self._looked = True, 0.0
        self._bar: Progress | None = None

    def disable(self) -> None:
        """Show nothing; Lightning calls it on all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total, done = self.total, self.before + trainer.global_step
        if total is None and trainer.max_steps > 0:
            total = trainer.max_steps
        self._bar = Progress(total=total, initial=done, desc=self.node, unit="step", disable=not self._enabled)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        if self._bar is None or trainer.global_step == trainer.max_steps:
            return  # the last step is shown with its validation, when the run ends
        if moved := self.before + trainer.global_step - self._bar.n:
            self._look(trainer)
            self._bar.update(moved)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._look(trainer, now=True)
            self._bar.update(self.before + trainer.global_step - self._bar.n)
            self._bar.close()

    def _look(self, trainer: L.Trainer, now: bool = False) -> None:
        """Show the metrics as they are now, or leave them if that was done a moment ago."""
        if self._bar is None or not (now or time.monotonic() - self._looked >= LOOK_EVERY):
            return
        self._looked = time.monotonic()
        metrics = trainer.callback_metrics
        found = {name: f"{metrics[key].item():.4g}" for name, key in SHOWN.items() if key in metrics}
        self._bar.set_postfix(found, refresh=False)
