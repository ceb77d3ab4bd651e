"""Steps whose loss or gradient is NaN or infinite: skipped, explained, and not saved."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ediffi.training.callbacks.ema import AVERAGES, EMA
from ediffi.training.callbacks.preemption import PreemptionCheckpoint
from ediffi.training.sharded_checkpoint import finish_saving

logger = logging.getLogger(__name__)
LISTED = 8
"""Samples that a message lists."""
LATE = {"cuda"}
"""Devices on which the host reads the state of a step during the next one, so that it need not wait for the device."""


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

    A fused optimiser on a GPU skips the step by a flag that stays there, and the host reads it during the next step: it
    runs ahead, and the GPU never waits for it. Steps that are logged or saved, the last step, those after a skipped one
    and all steps of other optimisers are read before the optimiser runs. A signal to end the run may act a step later.

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
        self._open: OpenStep | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ask for the signal of `PreemptionCheckpoint` too (one question a step to all processes), and let the average
        decide a step that is open before it is read."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._savers = [callback for callback in callbacks if isinstance(callback, PreemptionCheckpoint)]
        self._averages = [callback for callback in callbacks if isinstance(callback, AVERAGES)]
        for saver in self._savers:
            saver.asks = False
        for average in self._averages:
            if isinstance(average, EMA):
                average.decide = partial(self._decide, trainer, pl_module)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The step before has long run where this one's backward pass is queued: reading it stops nothing."""
        self._decide(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._decide(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Decide with the other processes; an optimiser step without gradients changes nothing."""
        batches: list[SampleLosses] = pl_module.batches_of_step  # type: ignore[assignment]  # of a DiffusionStage
        loss = torch.stack([batch.losses.mean() for batch in batches]).mean()
        summed = agree(trainer, pl_module, loss, any(saver.signalled for saver in self._savers))
        step = trainer.global_step
        if self._may_wait(trainer, optimizer, loss.device):
            optimizer.found_inf = (~summed[:2].isfinite().all()).float()  # type: ignore[attr-defined]
            self._open = OpenStep(step, batches, *_on_its_way(summed))
            pl_module.batches_of_step = []  # type: ignore[assignment]
            self._averaged(step + 1)
            return
        optimizer.found_inf = None  # type: ignore[attr-defined]
        state = StepState.of(trainer, summed.tolist())
        if self._judge(trainer, state, step, batches):
            if (step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                pl_module.log("train/grad_norm", torch.tensor(state.gradient))
            return
        self._skipped = True
        pl_module.batches_of_step = []  # type: ignore[assignment]
        optimizer.zero_grad(set_to_none=True)
        self._averaged(step + 1)

    def _may_wait(self, trainer: L.Trainer, optimizer: Optimizer, device: torch.device) -> bool:
        """Whether the host may read this step later, and the optimiser skip it by a flag on the device."""
        step = trainer.global_step + 1
        able = getattr(optimizer, "_step_supports_amp_scaling", False) and not _scaler(trainer)
        able = able and not isinstance(trainer.strategy, ModelParallelStrategy)  # its optimiser takes no plain flag
        able = able and all(isinstance(average, EMA) for average in self._averages)
        calm = self.skipped_in_a_row == 0 and self.go_back_after > 1 and not any(s.stopping for s in self._savers)
        logged = step % trainer.log_every_n_steps == 0 or step == trainer.max_steps  # type: ignore[attr-defined]
        savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        saved = any(c._train_time_interval or ((n := c._every_n_train_steps) and step % n == 0) for c in savers)
        return device.type in LATE and able and calm and not logged and not saved

    def _decide(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the step that is open, if there is one, and do what waited for it."""
        if self._open is None:
            return
        step, batches, summed, ready = self._open
        self._open = None
        if ready is not None:
            ready.synchronize()
        if self._judge(trainer, StepState.of(trainer, summed.tolist()), step, batches):
            pl_module.count(batches)  # type: ignore[operator]
            self._averaged(step)
            for average in self._averages:
                average.update(pl_module, step + 1)  # type: ignore[union-attr]  # of `EMA`

    def _judge(self, trainer: L.Trainer, state: "StepState", step: int, batches: Sequence[SampleLosses]) -> bool:
        """Whether a step is finite; if not, it is counted and explained."""
        finite = math.isfinite(state.loss) and (_scaler(trainer) or math.isfinite(state.gradient))
        for saver in self._savers:
            saver.stopping, saver.skipped = state.signalled, not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if finite:
            return True
        self._loss = torch.stack([batch.losses.mean() for batch in batches]).mean().item()
        # The NaN of one process is in the gradient of all: the one whose loss it is explains it.
        if not math.isfinite(self._loss) or math.isfinite(state.loss):
            logger.warning("step %d is skipped: %s", step, explain(batches, state.gradient))
        return False

    def _averaged(self, step: int) -> None:
        """Let the averages take the weights as averaged up to a step."""
        for average in self._averages:
            average.load_state_dict({"latest_update_step": step})

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

    @staticmethod
    def of(trainer: L.Trainer, summed: Sequence[float]) -> "StepState":
        """From what `agree` has summed."""
        gradient, loss, signals = summed
        sharded = isinstance(trainer.strategy, FSDPStrategy)
        return StepState(math.sqrt(gradient) if sharded else gradient / trainer.world_size, loss, signals > 0)


class OpenStep(NamedTuple):
    """A step that the device has decided, and the host does not know of yet."""

    step: int
    batches: Sequence[SampleLosses]
    summed: Float[Tensor, "3"]  # on the CPU, once it is
    ready: torch.cuda.Event | None


def agree(trainer: L.Trainer, module: torch.nn.Module, loss: Float[Tensor, ""], signalled: bool) -> Float[Tensor, "3"]:
    """Gradient norm (squared where it is sharded), loss and signal, summed over all processes by one reduction."""
    norm = get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    sharded = isinstance(trainer.strategy, FSDPStrategy)  # whose processes have a shard of the gradient each
    values = [norm.square() if sharded else norm, loss, torch.full_like(loss, signalled)]
    summed: Tensor = trainer.strategy.reduce(torch.stack(values), reduce_op="sum")
    return summed


def _on_its_way(summed: Float[Tensor, "3"]) -> tuple[Float[Tensor, "3"], torch.cuda.Event | None]:
    """A copy on the CPU that need not have arrived, and the event after which it has."""
    copied = summed.to("cpu", non_blocking=True, copy=True)
    if summed.device.type != "cuda":
        return copied, None
    ready = torch.cuda.Event()
    ready.record()
    return copied, ready


def _scaler(trainer: L.Trainer) -> bool:
    """Whether a gradient scaler skips steps whose gradient is not finite (16-mixed)."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def restore(trainer: L.Trainer, path: str) -> int:
    """Load weights, average and optimiser state of a checkpoint, and return its step; the learning rate stays."""
    strategy, module = trainer.strategy, trainer.lightning_module
    finish_saving(strategy)
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
