"""Weights sharded over processes, by fsdp or by FSDP2 (`ModelParallelStrategy`), and what a recipe must have for it."""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    OptimStateKeyType,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._pytree import SequenceKey, tree_map_only

from ediffi.registry.denoisers.layers import Block
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.training import checkpoint as checkpoints
from ediffi.training.callbacks.ema import EMA
from ediffi.training.callbacks.run_directory import AtomicCheckpointIO
from ediffi.training.shard_reader import SHARDS, filled
from ediffi.training.sharded_checkpoint import ShardedCheckpoints, cpu_group

logger = logging.getLogger(__name__)
IN_TRAINING = ("optimizer_states", "current_model_state")
"""Entries of a checkpoint that a validation does not load."""
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
        advice = "for sharded checkpoints take ModelParallelStrategy"
        raise ValueError(f"state_dict_type of fsdp must be full, since a checkpoint is one file; got sharded: {advice}")
    places = {str(getattr(one, "dirpath", None) or trainer.default_root_dir) for one in trainer.checkpoint_callbacks}
    if saves_shards(trainer.strategy) and (remote := [place for place in places if "://" in place]):
        advice = "set save_distributed_checkpoint: false, or name a folder that all processes share"
        raise ValueError(f"sharded checkpoints cannot be written to {remote[0]}: {advice}")
    if isinstance(trainer.strategy, FSDPStrategy):
        # Lightning would cast the batch and refuses frozen dataclasses, as ours are; they are float32 already.
        trainer.strategy.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]
        # fsdp flattens weights in the order of memory, and optimiser states in the order of indices: make them agree.
        module.to(memory_format=torch.contiguous_format)


def prepare_fsdp2(
    trainer: L.Trainer, strategy: ModelParallelStrategy, module: L.LightningModule, denoiser: Preconditioned
) -> None:
    """Let a module shard its denoiser when the strategy asks for it, and save and load its checkpoints."""
    module.to(memory_format=torch.contiguous_format)  # FSDP2 takes no others
    # Not a method of the class: Lightning's average warns of each module that has one, whatever the strategy.
    low_precision = trainer.precision == "bf16-mixed"
    module.configure_model = partial(shard, denoiser, strategy.device_mesh, low_precision)  # type: ignore[method-assign]
    strategy.load_checkpoint = partial(_load, strategy)  # type: ignore[method-assign]
    if saves_shards(strategy):
        saver = ShardedCheckpoints(strategy, AtomicCheckpointIO())
        strategy.save_checkpoint, strategy.remove_checkpoint = saver.save, saver.remove  # type: ignore[method-assign]
        strategy.optimizer_state = Optimizer.state_dict  # type: ignore[method-assign,assignment]


def saves_shards(strategy: Strategy) -> bool:
    """Whether each process saves its part of the weights."""
    return isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint


@torch.no_grad()
def match_memory(optimizers: Iterable[Optimizer]) -> None:
    """Lay the states of weights out in memory as the weights are.

    Weights are channels-last, and contiguous where they are sharded. A checkpoint keeps the layout of its run, and a
    fused optimiser goes through both in the order of memory: it would take the moments of one number for another's.
    """
    for optimizer in optimizers:
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and _strides(value) != _strides(weight):
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    return tensor.to_local().stride() if isinstance(tensor, DTensor) else tensor.stride()


def _load(strategy: ModelParallelStrategy, path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
    """Load weights, and states of optimisers in a fit, into the shards, each process its own; returns the rest."""
    place = strategy.broadcast(path)
    content = {} if "://" in str(place) else checkpoints.sealed(Path(place))
    if SHARDS not in content:
        return _load_whole(strategy, place, weights_only)
    if not strategy.optimizers:
        content = {key: value for key, value in content.items() if key not in IN_TRAINING}
    content = filled(Path(place), content, partial(_shard, strategy), cpu_group())
    assert strategy.model is not None
    strategy.model.load_state_dict(content.pop("state_dict"))
    for optimizer, saved in zip(strategy.optimizers, content.get("optimizer_states", []), strict=False):
        optimizer.load_state_dict(saved)
    return content


def _shard(strategy: ModelParallelStrategy, path: Sequence[Any], absent: Tensor) -> Tensor:
    """Memory for this process's part of a tensor of a checkpoint, sharded as the weight that it belongs to."""
    part, *names = (key.idx if isinstance(key, SequenceKey) else key.key for key in path)
    assert strategy.model is not None
    known: dict[Any, Tensor] = strategy.model.state_dict()
    weight = names[0]
    if part == "optimizer_states":  # as in ["optimizer_states"][0]["state"][17]["exp_avg"]
        groups = strategy.optimizers[names[0]].param_groups
        weight, known = names[2], dict(enumerate(one for group in groups for one in group["params"]))
    found = known.get(weight)
    if found is None or found.shape != absent.shape:
        have = f"{tuple(absent.shape)}, the recipe's is {None if found is None else tuple(found.shape)}"
        raise ValueError(f"the checkpoint is of another network than the recipe's: its {weight} is {have}")
    return torch.empty_like(found, dtype=absent.dtype)


def _load_whole(strategy: ModelParallelStrategy, path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
    """Load weights and states of optimisers from a checkpoint, in any memory layout, into the shards; returns the rest.

    In place of Lightning's: torch sends each tensor to the other processes as it lies in memory, so that they take
    channels-last weights and moments for contiguous ones. Here every process reads the file.
    """
    content = strategy.checkpoint_io.load_checkpoint(path, weights_only=weights_only)
    model, options = strategy.model, StateDictOptions(full_state_dict=True)
    assert model is not None
    checkpoints.check_network(content["state_dict"], model.state_dict())
    set_model_state_dict(model, tree_map_only(Tensor, Tensor.contiguous, content.pop("state_dict")), options=options)
    for optimizer, saved in zip(strategy.optimizers, content.get("optimizer_states", []), strict=False):
        whole = tree_map_only(Tensor, Tensor.contiguous, saved)
        by_name = FullyShardedDataParallel.rekey_optim_state_dict(whole, OptimStateKeyType.PARAM_NAME, model)
        set_optimizer_state_dict(model, optimizer, by_name, options=options)
    return content


def shard(denoiser: Preconditioned, mesh: DeviceMesh, low_precision: bool) -> None:
    """Shard a denoiser by FSDP2, in place: block by block, so that one block is gathered while another computes.

    The second dimension of the `mesh` shards, and the first one replicates (hybrid sharding), unless the second is 1:
    `tensor_parallel_size` of `ModelParallelStrategy` is the number of processes that share one copy, a machine by
    default, and `data_parallel_size` the number of copies; or, with 1, the number of processes that share the only one.

    With `low_precision`, blocks are gathered and computed in bfloat16, and gradients are summed in float32. The rest of
    the network keeps float32 weights under autocast, and noise levels their precision.
    """
    if isinstance(denoiser, FSDPModule):
        return
    over = mesh if mesh["tensor_parallel"].size() > 1 else mesh["data_parallel"]
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if low_precision else MixedPrecisionPolicy()
    for module in denoiser.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=over, mp_policy=policy)
    # Resharded after each forward pass, as blocks are: validation has no backward pass that would do it.
    fully_shard(denoiser, mesh=over, reshard_after_forward=True)
