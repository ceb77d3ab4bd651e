"""An exponential moving average (EMA) of weights that also works where fsdp shards them."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn


class ShardedEMA(L.Callback):
    """Averages the shard of the weights on this process: `average <- decay·average + (1 - decay)·weights` each step.

    Lightning's `EMAWeightAveraging` copies the module before fsdp shards it, so the shapes of its copy and of the
    weights differ. An average goes element by element, so here each process averages its own shard. Validation uses the
    average. Checkpoints are those of Lightning's callback (`state_dict` is the average, `current_model_state` the
    weights), so a run may change from one callback to the other.

    Args:
        decay: of the average, per step; in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay of the average must be in [0, 1), got {decay}")
        self.decay = decay
        self._average: list[Tensor] = []
        self._updated = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._average = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the weights, sharded by now, or from the average that a checkpoint has brought."""
        weights = local_tensors(pl_module)
        averages = self._average or [weight.detach().clone() for weight in weights]
        self._average = [average.to(weight) for average, weight in zip(averages, weights, strict=True)]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Average after an optimiser step; the first weights are copied, as torch's `AveragedModel` does."""
        if trainer.global_step <= self._updated:  # a batch that is accumulated, or a skipped step
            return
        weights = [weight.detach() for weight in local_tensors(pl_module)]
        share = 1 - self.decay if self._updated else 1.0
        for average, weight in zip(self._average, weights, strict=True):
            average.lerp_(weight, share)
        self._updated = trainer.global_step

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
        checkpoint["current_model_state"] = {key: value.clone() for key, value in checkpoint["state_dict"].items()}
        self._swap(trainer)
        averaged = trainer.strategy.lightning_module_state_dict()
        checkpoint["state_dict"] = {key: value.clone() for key, value in averaged.items()}
        self._swap(trainer)
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._updated)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average out of the module, which has loaded `state_dict`, and load the weights into it."""
        if trainer.state.fn != "fit":
            return
        self._average = [weight.detach().clone() for weight in local_tensors(pl_module)]
        if "current_model_state" not in checkpoint:
            return
        self._updated = max(self._updated, checkpoint["global_step"])  # Lightning's callback counts updates separately
        if isinstance(trainer.strategy, FSDPStrategy):
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

            assert trainer.strategy.model is not None
            options = StateDictOptions(full_state_dict=True)
            set_model_state_dict(trainer.strategy.model, checkpoint["current_model_state"], options=options)
        else:
            pl_module.load_state_dict(checkpoint["current_model_state"])

    @torch.no_grad()
    def _swap(self, trainer: L.Trainer) -> None:
        """Exchange average and weights."""
        for average, weight in zip(self._average, local_tensors(trainer.lightning_module), strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)
        if isinstance(trainer.strategy, FSDPStrategy):  # which would validate the weights that it has gathered before
            from torch.distributed.fsdp import FullyShardedDataParallel

            assert trainer.strategy.model is not None
            for module in FullyShardedDataParallel.fsdp_modules(trainer.strategy.model):
                if module._handle is not None:
                    module._handle.reshard(True)


def local_tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a module; under fsdp the shards on this process."""
    return [*module.parameters(), *module.buffers()]


def prepare_sharding(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Fit a stage to fsdp; ValueError if the recipe's average or format of checkpoints does not go with shards."""
    if not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        return
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        ours = f"use {ShardedEMA.__module__}.{ShardedEMA.__name__} with the same decay, or train with ddp"
        raise ValueError(f"EMAWeightAveraging cannot average weights that fsdp shards; {ours}")
    if getattr(trainer.strategy, "_state_dict_type", "full") != "full":
        raise ValueError("state_dict_type of fsdp must be full, since a checkpoint is one file; got sharded")
    if isinstance(trainer.strategy, FSDPStrategy):
        # Lightning would cast the batch and refuses frozen dataclasses, as ours are; they are float32 already.
        trainer.strategy.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]
        # fsdp flattens weights in the order of memory, and optimiser states in the order of indices: make them agree.
        module.to(memory_format=torch.contiguous_format)
