"""Steps whose loss or gradient is NaN or infinite: skipped, explained, and not saved."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ediffi.training.callbacks.sharded_ema import ShardedEMA

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleLosses:
    """What a batch was trained on, for whoever has to explain a loss that is not finite.

    Attributes:
        keys: of its samples.
        sigma: [b] noise levels.
        losses: [b] weighted losses.
    """

    keys: Sequence[str]
    sigma: Float[Tensor, " b"]
    losses: Float[Tensor, " b"]


class NonFiniteLossError(ValueError):
    """Loss or gradient are NaN or infinite and stay so: training has diverged."""


class SkipNonFinite(L.Callback):
    """Leaves out a step whose loss or gradient is not finite: neither the optimiser nor the average sees it.

    All processes decide together. The keys and noise levels of the samples are logged, the step is counted and its
    samples are spent, so that the next step sees others. After `go_back_after` such steps in a row, weights, average
    and optimiser state become those of the last checkpoint, while steps, samples and learning rate go on; while a row
    lasts nothing is saved, so the last checkpoint is a good one. After `end_after` in a row, or when the same
    checkpoint was gone back to `end_after // go_back_after` times, the run ends.

    Under 16-mixed precision only the loss is looked at: there a gradient that is not finite is the scaler's to handle.

    Args:
        go_back_after: skipped steps in a row until the last checkpoint is gone back to.
        end_after: skipped steps in a row until the run ends.

    Raises:
        ValueError: they are not 1 <= go_back_after <= end_after.
    """

    def __init__(self, go_back_after: int = 3, end_after: int = 10) -> None:
        if not 1 <= go_back_after <= end_after:
            raise ValueError(f"go_back_after must be in 1 to end_after ({end_after}), got {go_back_after}")
        self.go_back_after, self.end_after = go_back_after, end_after
        self.in_a_row, self._skipped = 0, False
        self._returns: dict[int, int] = {}
        self._loss = float("nan")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Decide with the other processes; a step without gradients leaves weights and optimiser state as they are."""
        seen: list[SampleLosses] = pl_module.seen  # type: ignore[assignment]  # a stage's own
        pl_module.seen = []  # type: ignore[assignment]
        norm = gradient_norm(pl_module, trainer.strategy)
        loss = torch.stack([batch.losses.mean() for batch in seen]).mean()
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        fine = bool(torch.isfinite(loss if scaled else loss + norm))
        if trainer.strategy.reduce_boolean_decision(fine, all=True):
            self.in_a_row = 0
            pl_module.log("train/grad_norm", norm)
            return
        self.in_a_row, self._skipped, self._loss = self.in_a_row + 1, True, loss.item()
        mine = not bool(torch.isfinite(loss))
        anyone = trainer.strategy.reduce_boolean_decision(mine, all=False)  # its NaN is in everybody's gradient
        if mine or not anyone:
            log.warning("step %d is skipped: %s", trainer.global_step, explain(seen, norm.item()))
        optimizer.zero_grad(set_to_none=True)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging | ShardedEMA):
                callback.load_state_dict({"latest_update_step": trainer.global_step + 1})

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a row of skipped steps from being saved; go back or end when it is long enough."""
        skipped, self._skipped = self._skipped, False
        if not skipped:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback._last_global_step_saved = trainer.global_step
        if self.in_a_row == self.end_after:
            self._end(trainer, f"for {self.in_a_row} steps in a row")
        if self.in_a_row == self.go_back_after:
            self._go_back(trainer)

    def _go_back(self, trainer: L.Trainer) -> None:
        path = getattr(trainer.checkpoint_callback, "last_model_path", "")
        path = path or getattr(trainer.checkpoint_callback, "best_model_path", "")
        if not path:
            log.warning("there is no checkpoint to go back to yet")
            return
        step = restore(trainer, path)
        self._returns = {step: self._returns.get(step, 0) + 1}
        if self._returns[step] > self.end_after // self.go_back_after:
            self._end(trainer, f"again and again after the checkpoint of step {step}")
        if trainer.is_global_zero:
            log.warning("at step %d, the weights are those of step %d again: %s", trainer.global_step, step, path)

    def _end(self, trainer: L.Trainer, when: str) -> None:
        path = getattr(trainer.checkpoint_callback, "last_model_path", "") or "none was saved"
        raise NonFiniteLossError(
            f"the loss is {self._loss} or its gradient is not finite {when}, now at step {trainer.global_step}; lower "
            f"the learning rate, look at the samples named above, or resume from an earlier checkpoint (last: {path})"
        )


def gradient_norm(module: torch.nn.Module, strategy: Strategy) -> Float[Tensor, ""]:
    """The norm of the whole gradient; under fsdp every process holds a part of it."""
    norm = get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    if isinstance(strategy, FSDPStrategy):
        return strategy.reduce(norm.square(), reduce_op="sum").sqrt()
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def restore(trainer: L.Trainer, path: str) -> int:
    """Make weights, average and optimiser state those of a checkpoint; steps and learning rate stay. Its step."""
    strategy, module = trainer.strategy, trainer.lightning_module
    checkpoint = strategy.load_checkpoint(path, weights_only=True)
    strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    if strategy.lightning_restore_optimizer:
        strategy.load_optimizer_state_dict(checkpoint)
    for optimizer, kept in zip(trainer.optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, kept, strict=True):
            group["lr"] = rate
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging | ShardedEMA):
            callback.on_load_checkpoint(trainer, module, checkpoint)
    return int(checkpoint["global_step"])


def explain(seen: list[SampleLosses], norm: float) -> str:
    """Which samples, at which noise levels, are to blame; of a gradient, all may be."""
    rows = [
        (key, sigma, loss)
        for batch in seen
        for key, sigma, loss in zip(batch.keys, batch.sigma.tolist(), batch.losses.tolist(), strict=True)
    ]
    wrong = [row for row in rows if not torch.isfinite(torch.tensor(row[2]))]
    what = "the loss is not finite" if wrong else f"the norm of the gradient is {norm} at a finite loss"
    named = ", ".join(f"{key} (sigma {sigma:.4g}, loss {loss:.4g})" for key, sigma, loss in (wrong or rows)[:8])
    more = len(wrong or rows) - 8
    return f"{what}; samples {named}" + (f" and {more} more" if more > 0 else "")
