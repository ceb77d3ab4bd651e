"""Steps whose loss or gradient is NaN or infinite: skipped, explained, and not saved."""

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ediffi.training.callbacks.ema import AVERAGES
from ediffi.training.callbacks.preemption import PreemptionCheckpoint

logger = logging.getLogger(__name__)
LISTED = 8
"""Samples that a message lists."""


class SampleLosses(NamedTuple):
    """Keys, noise levels and weighted losses of a batch, to explain a loss that is not finite."""

    keys: Sequence[str]
    sigma: Float[Tensor, " b"]
    losses: Float[Tensor, " b"]


class NonFiniteLossError(ValueError):
    """The loss or the gradient stays NaN or infinite: training has diverged."""


class SkipNonFinite(L.Callback):
    """Skips a step whose loss or gradient is not finite: neither the optimiser nor the average (EMA) sees it.

    All processes decide together. Keys and noise levels of the samples are logged. The step is counted and its samples
    are used up, so the next step sees others. After `go_back_after` skipped steps in a row, weights, average and
    optimiser state are loaded from the last checkpoint; step, data position and learning rate continue. Nothing is
    saved during such a row, so the last checkpoint is a good one. The run ends after `end_after` skipped steps in a
    row, or when the same checkpoint was loaded `end_after // go_back_after` times in vain.

    Under 16-mixed precision only the loss is checked: there the gradient scaler handles gradients that are not finite.

    Args:
        go_back_after: skipped steps in a row after which the last checkpoint is loaded; at least 1.
        end_after: skipped steps in a row after which the run ends; at least `go_back_after`.
    """

    def __init__(self, go_back_after: int = 3, end_after: int = 10) -> None:
        if not 1 <= go_back_after <= end_after:
            raise ValueError(f"go_back_after must be in 1 to end_after ({end_after}), got {go_back_after}")
        self.go_back_after, self.end_after = go_back_after, end_after
        self.skipped_in_a_row, self._skipped = 0, False
        self._returns: dict[int, int] = {}
        self._loss = float("nan")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ask for the signal of `PreemptionCheckpoint` too: one question a step to all processes."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._savers = [callback for callback in callbacks if isinstance(callback, PreemptionCheckpoint)]
        for saver in self._savers:
            saver.asks = False

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Decide with the other processes; an optimiser step without gradients changes nothing."""
        batches: list[SampleLosses] = pl_module.batches_of_step  # type: ignore[assignment]  # of a DiffusionStage
        loss = torch.stack([batch.losses.mean() for batch in batches]).mean()
        state = agree(trainer, pl_module, loss, any(saver.signalled for saver in self._savers))
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        finite = math.isfinite(state.loss) and (scaled or math.isfinite(state.gradient))
        for saver in self._savers:
            saver.stopping, saver.skipped = state.signalled, not finite
        step = trainer.global_step
        if finite:
            self.skipped_in_a_row = 0
            if (step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                pl_module.log("train/grad_norm", torch.tensor(state.gradient))
            return
        self.skipped_in_a_row, self._skipped, self._loss = self.skipped_in_a_row + 1, True, loss.item()
        # The NaN of one process is in the gradient of all: the one whose loss it is explains it.
        if not math.isfinite(self._loss) or math.isfinite(state.loss):
            logger.warning("step %d is skipped: %s", step, explain(batches, state.gradient))
        pl_module.batches_of_step = []  # type: ignore[assignment]
        optimizer.zero_grad(set_to_none=True)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AVERAGES):  # as if it had averaged this step already
                callback.load_state_dict({"latest_update_step": step + 1})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Mark a skipped step as saved, so that `ModelCheckpoint` leaves it out; go back or end after a row of them."""
        skipped, self._skipped = self._skipped, False
        if not skipped:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback._last_global_step_saved = trainer.global_step
        if self.skipped_in_a_row == self.end_after:
            self._end(trainer, f"for {self.skipped_in_a_row} steps in a row")
        if self.skipped_in_a_row == self.go_back_after:
            self._go_back(trainer)

    def _go_back(self, trainer: L.Trainer) -> None:
        path = getattr(trainer.checkpoint_callback, "last_model_path", "")
        path = path or getattr(trainer.checkpoint_callback, "best_model_path", "")
        if not path:
            logger.warning("there is no checkpoint to go back to yet")
            return
        step = restore(trainer, path)
        self._returns = {step: self._returns.get(step, 0) + 1}
        if self._returns[step] > self.end_after // self.go_back_after:
            self._end(trainer, f"again and again after the checkpoint of step {step}")
        if trainer.is_global_zero:
            logger.warning("at step %d, the weights are those of step %d again: %s", trainer.global_step, step, path)

    def _end(self, trainer: L.Trainer, when: str) -> None:
        path = getattr(trainer.checkpoint_callback, "last_model_path", "") or "none was saved"
        raise NonFiniteLossError(
            f"the loss is {self._loss} or its gradient is not finite {when}, now at step {trainer.global_step}; lower "
            f"the learning rate, look at the samples named above, or resume from an earlier checkpoint (last: {path})"
        )


class StepState(NamedTuple):
    """What all processes know of a step before its optimiser."""

    gradient: float  # the 2-norm of the whole gradient
    loss: float  # the sum of their losses
    signalled: bool  # a signal to end the run has reached one of them


def agree(trainer: L.Trainer, module: torch.nn.Module, loss: Float[Tensor, ""], signalled: bool) -> StepState:
    """The state of a step over all processes: one reduction, and the one time in a step that the device is read.

    Our choice: it is read before the optimiser runs, so that a step is skipped exactly, with every optimiser. A flag on
    the device, which only fused optimisers know, would save the GPU the wait for the launch of its next kernel.
    """
    norm = get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    sharded = isinstance(trainer.strategy, FSDPStrategy)  # whose processes have a shard of the gradient each
    values = [norm.square() if sharded else norm, loss, torch.full_like(loss, signalled)]
    summed, losses, signals = trainer.strategy.reduce(torch.stack(values), reduce_op="sum").tolist()
    return StepState(math.sqrt(summed) if sharded else summed / trainer.world_size, losses, signals > 0)


def restore(trainer: L.Trainer, path: str) -> int:
    """Load weights, average and optimiser state of a checkpoint, and return its step; the learning rate stays."""
    strategy, module = trainer.strategy, trainer.lightning_module
    checkpoint = strategy.load_checkpoint(path, weights_only=True)
    strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    if strategy.lightning_restore_optimizer:
        strategy.load_optimizer_state_dict(checkpoint)
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]  # loading replaces them
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, AVERAGES):
            callback.on_load_checkpoint(trainer, module, checkpoint)
    return int(checkpoint["global_step"])


def explain(batches: Sequence[SampleLosses], norm: float) -> str:
    """The samples whose loss is not finite, with their noise levels; all samples if only the gradient is not."""
    rows = [row for b in batches for row in zip(b.keys, b.sigma.tolist(), b.losses.tolist(), strict=True)]
    bad = [row for row in rows if not math.isfinite(row[2])]
    what = "the loss is not finite" if bad else f"the norm of the gradient is {norm} at a finite loss"
    listed = ", ".join(f"{key} (sigma {sigma:.4g}, loss {loss:.4g})" for key, sigma, loss in (bad or rows)[:LISTED])
    more = len(bad or rows) - LISTED
    return f"{what}; samples {listed}" + (f" and {more} more" if more > 0 else "")
