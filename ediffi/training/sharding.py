"""What a recipe must have, so that a strategy that shards the weights can train with it."""

import logging

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from ediffi.training.callbacks.ema import EMA

logger = logging.getLogger(__name__)
OURS = f"{EMA.__module__}.{EMA.__name__}"


def prepare(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Fit a stage to its strategy; ValueError if the recipe's average or format of checkpoints does not go with shards.

    Lightning's average stays on the CPU when the weights move to a GPU: a warning says so.
    """
    theirs = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        if theirs and trainer.strategy.root_device.type != "cpu":
            logger.warning("EMAWeightAveraging keeps the average on the CPU, which is slow; %s keeps it here", OURS)
        return
    if theirs:
        ours = f"use {OURS} with the same decay, or train with ddp"
        raise ValueError(f"EMAWeightAveraging cannot average weights that fsdp shards; {ours}")
    if getattr(trainer.strategy, "_state_dict_type", "full") != "full":
        raise ValueError("state_dict_type of fsdp must be full, since a checkpoint is one file; got sharded")
    if isinstance(trainer.strategy, FSDPStrategy):
        # Lightning would cast the batch and refuses frozen dataclasses, as ours are; they are float32 already.
        trainer.strategy.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]
        # fsdp flattens weights in the order of memory, and optimiser states in the order of indices: make them agree.
        module.to(memory_format=torch.contiguous_format)
