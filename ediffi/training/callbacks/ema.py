"""An exponential moving average (EMA) of the weights, kept beside them: on their device, and sharded as they are."""

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class EMA(L.Callback):
    """Averages the weights after each optimiser step t = 1, 2, ...: `average <- beta·average + (1 - beta)·weights`.

    With a constant decay, `beta = min(decay, t/(9 + t))`: the warm-up of TensorFlow's `ExponentialMovingAverage`, which
    averages about the last tenth of a run that is still shorter than the decay's window, so that the random first
    weights do not stay in it. With `sigma_rel`, `beta = (1 - 1/t)^(gamma + 1)`, the power-function profile of EDM2
    (Karras et al. 2024, arXiv 2312.02696, section 3.1 and appendix C), whose width is a share of the run, however
    long. Either way the first step copies the weights.

    Validation and sample grids use the average, and the module has it after the run. Checkpoints are those of
    Lightning's `EMAWeightAveraging` (`state_dict` is the average, `current_model_state` the weights), so that a run may
    change from one callback to the other. Lightning's takes its device before the model is moved, so that on a GPU its
    average stays on the CPU, and it cannot average weights that fsdp shards.

    Buffers and frozen weights are not averaged.

    Args:
        decay: of the average, per step; in [0, 1). 0.999 by default.
        warm_up: shorten the average at the beginning of a run.
        sigma_rel: instead of `decay`, the relative standard deviation of EDM2's profile; in (0, 0.28]. EDM2 has 0.05
            to 0.25.
    """

    def __init__(self, decay: float | None = None, warm_up: bool = True, sigma_rel: float | None = None) -> None:
        if decay is not None and sigma_rel is not None:
            raise ValueError(f"an average has a decay or a sigma_rel, got both: {decay} and {sigma_rel}")
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay of the average must be in [0, 1), got {decay}")
        if sigma_rel is not None and not 0 < sigma_rel <= 0.28:
            raise ValueError(f"sigma_rel of the average must be in (0, 0.28], got {sigma_rel}")
        if sigma_rel is not None and not warm_up:
            raise ValueError("warm_up belongs to decay: with sigma_rel the average always starts short")
        self.decay, self.warm_up = 0.999 if decay is None else decay, warm_up
        self.gamma = None if sigma_rel is None else power_of(sigma_rel)
        self._average: list[Tensor] = []
        self._updated = 0
        self.decide: Callable[[], None] = lambda: None
        """Called before the average is read: `SkipNonFinite` averages the last step then, if that is still open."""

    def beta(self, step: int) -> float:
        """What a step, counted from 1, leaves of the average before it."""
        if self.gamma is not None:
            return float((1 - 1 / step) ** (self.gamma + 1))
        return min(self.decay, step / (9 + step)) if self.warm_up else self.decay

    def start(self, module: nn.Module) -> None:
        """Begin with the weights of a module, or with the average that a checkpoint has brought, beside the weights."""
        weights = averaged_weights(module)
        averages = self._average or [weight.clone() for weight in weights]
        self._average = [average.to(weight) for average, weight in zip(averages, weights, strict=True)]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Average the weights after a step; nothing if this step was averaged, or skipped."""
        if step > self._updated:
            share = 1 - self.beta(step) if self._updated else 1.0
            torch._foreach_lerp_(self._average, averaged_weights(module), share)
            self._updated = step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._average = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The weights are moved and sharded by now."""
        self.start(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """The batch may be one of several of a step; then the step has not grown."""
        self.update(pl_module, trainer.global_step)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the module, as Lightning's callback does."""
        self._swap(trainer)
        self._average = []

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self._updated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._updated = state_dict["latest_update_step"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save average and weights; every process takes part in gathering them."""
        if not self._average:
            return
        self.decide()
        checkpoint["current_model_state"] = on_cpu(checkpoint["state_dict"])
        self._swap(trainer)
        checkpoint["state_dict"] = on_cpu(trainer.strategy.lightning_module_state_dict())
        self._swap(trainer)
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._updated)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average out of the module, which has loaded `state_dict`, and load the weights into it."""
        if trainer.state.fn != "fit":
            return
        self._average = [weight.clone() for weight in averaged_weights(pl_module)]
        if "current_model_state" not in checkpoint:
            return
        self._updated = max(self._updated, checkpoint["global_step"])  # Lightning's callback counts updates separately
        sharded = isinstance(next(iter(checkpoint["current_model_state"].values()), None), DTensor)
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy) and not sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

            assert trainer.strategy.model is not None
            options = StateDictOptions(full_state_dict=True)
            set_model_state_dict(trainer.strategy.model, checkpoint["current_model_state"], options=options)
        else:
            pl_module.load_state_dict(checkpoint["current_model_state"])

    @torch.no_grad()
    def _swap(self, trainer: L.Trainer) -> None:
        """Exchange average and weights; outside of a fit there is no average."""
        if not self._average:
            return
        self.decide()
        for average, weight in zip(self._average, averaged_weights(trainer.lightning_module), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        if isinstance(trainer.strategy, FSDPStrategy):  # which would validate the weights that it has gathered before
            from torch.distributed.fsdp import FullyShardedDataParallel

            assert trainer.strategy.model is not None
            for module in FullyShardedDataParallel.fsdp_modules(trainer.strategy.model):
                if module._handle is not None:
                    module._handle.reshard(True)


AVERAGES = EMA | WeightAveraging
"""Callbacks that average weights: ours, and Lightning's."""


def power_of(sigma_rel: float) -> float:
    """`gamma` of EDM2's profile of relative width `sigma_rel = (gamma + 1)^(1/2) / ((gamma + 2)·(gamma + 3)^(1/2))`.

    The largest root of `gamma³ + 7·gamma² + (16 - s)·gamma + 12 - s` with `s = sigma_rel⁻²` (EDM2, appendix C).
    """
    squared = sigma_rel**-2
    return float(np.roots([1, 7, 16 - squared, 12 - squared]).real.max())


def averaged_weights(module: nn.Module) -> list[Tensor]:
    """The trained parameters of a module, without their gradients; where they are sharded, the shards here."""
    trained = (parameter.detach() for parameter in module.parameters() if parameter.requires_grad)
    return [weight.to_local() if hasattr(weight, "to_local") else weight for weight in trained]


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors on the CPU, which has the room for them that a GPU may lack."""
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
