"""An exponential moving average of weights that also works where every process holds a part of them (fsdp)."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn


class ShardedEMA(L.Callback):
    """Averages the weights that this process holds: `average <- decay·average + (1 - decay)·weights` after each step.

    Lightning's `EMAWeightAveraging` copies the module before fsdp shards it, so its copy and the weights have other
    shapes, and no average comes of it. An average goes element by element, so each process can keep that of its own
    part, in its own memory: this callback does. Validation uses the average, and checkpoints are those of Lightning's
    callback (`state_dict` is the average, `current_model_state` the weights), so either can go on with the other's.

    Args:
        decay: of the average, per step.

    Raises:
        ValueError: `decay` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay of the average must be in [0, 1), got {decay}")
        self.decay = decay
        self._average: list[Tensor] = []
        self._updated = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget the run before."""
        self._average = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the weights, which are sharded by now; or with the average that a checkpoint brought before."""
        weights = held(pl_module)
        averages = self._average or [weight.detach().clone() for weight in weights]
        self._average = [average.to(weight) for average, weight in zip(averages, weights, strict=True)]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after an optimiser step; the first weights are taken as they are, as in `AveragedModel`."""
        if trainer.global_step <= self._updated:
            return
        weights = [weight.detach() for weight in held(pl_module)]
        share = 1 - self.decay if self._updated else 1.0
        for average, weight in zip(self._average, weights, strict=True):
            average.lerp_(weight, share)
        self._updated = trainer.global_step

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average."""
        self._swap(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train on with the weights."""
        self._swap(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the module, as Lightning's callback does."""
        self._swap(trainer)
        self._average = []

    def state_dict(self) -> dict[str, Any]:
        """The step of the last update."""
        return {"latest_update_step": self._updated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after that step."""
        self._updated = state_dict["latest_update_step"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average beside the weights; every process takes part in gathering it."""
        if not self._average:
            return
        checkpoint["current_model_state"] = {key: value.clone() for key, value in checkpoint["state_dict"].items()}
        self._swap(trainer)
        averaged = trainer.strategy.lightning_module_state_dict()
        checkpoint["state_dict"] = {key: value.clone() for key, value in averaged.items()}
        self._swap(trainer)
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._updated)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average from the module, into which it has been loaded, and load the weights."""
        if trainer.state.fn != "fit":
            return
        self._average = [weight.detach().clone() for weight in held(pl_module)]
        if "current_model_state" not in checkpoint:
            return
        self._updated = max(self._updated, checkpoint["global_step"])  # Lightning's callback keeps its own count
        if isinstance(trainer.strategy, FSDPStrategy):
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

            assert trainer.strategy.model is not None
            options = StateDictOptions(full_state_dict=True)
            set_model_state_dict(trainer.strategy.model, checkpoint["current_model_state"], options=options)
        else:
            pl_module.load_state_dict(checkpoint["current_model_state"])

    @torch.no_grad()
    def _swap(self, trainer: L.Trainer) -> None:
        for average, weight in zip(self._average, held(trainer.lightning_module), strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)
        forget_gathered(trainer)


def forget_gathered(trainer: L.Trainer) -> None:
    """After the weights have changed: fsdp must gather them anew, where it would use what it gathered to validate."""
    if isinstance(trainer.strategy, FSDPStrategy):
        from torch.distributed.fsdp import FullyShardedDataParallel

        assert trainer.strategy.model is not None
        for module in FullyShardedDataParallel.fsdp_modules(trainer.strategy.model):
            if module._handle is not None:
                module._handle.reshard(True)


def held(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module, as far as this process holds them."""
    return [*module.parameters(), *module.buffers()]
