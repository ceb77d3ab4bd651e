"""A progress bar over a whole growth schedule, of which this run is one node."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

SHOW_LOSS_EVERY = 20


class ScheduleBar(ProgressBar):
    """Steps, rate and time left of the schedule, with the loss of this node.

    Args:
        node: label of the bar.
        before: steps of the nodes before this one; 0 <= before < total.
        total: steps of the whole schedule.
    """

    def __init__(self, node: str, before: int, total: int) -> None:
        super().__init__()
        if not 0 <= before < total:
            raise ValueError(f"before must be in 0 to total - 1 ({total - 1}), got {before}")
        self.node, self.before, self.total = node, before, total
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Show no bar; Lightning calls it on all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = self.before + trainer.global_step
        self._bar = tqdm(total=self.total, initial=done, desc=self.node, unit="step", disable=not self._enabled)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        if self._bar is not None and (moved := self.before + trainer.global_step - self._bar.n):
            if trainer.global_step % SHOW_LOSS_EVERY == 0:
                loss = trainer.callback_metrics.get("train/loss")
                self._bar.set_postfix({} if loss is None else {"loss": f"{loss.item():.3f}"}, refresh=False)
            self._bar.update(moved)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()
