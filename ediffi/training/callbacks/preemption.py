"""A run that can be stopped at any moment: its folder is held, its files are whole, its last state is saved."""

import json
import os
import shutil
import signal
import socket
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.optim import Optimizer

from ediffi.training.atomic_checkpoint import AtomicCheckpointIO
from ediffi.training.callbacks.non_finite import SkipNonFinite
from ediffi.training.callbacks.sharded_ema import ShardedEMA

LOCK = "run.lock"
HOLDER = "run.holder.json"
MACHINE = socket.gethostname()
TERMINATED = 128 + signal.SIGTERM


class PreemptionCheckpoint(L.Callback):
    """Keeps a run.

    One run at a time has a folder; a second is told whose it is. Checkpoints are written by `AtomicCheckpointIO`; before the
    first step there must be room for them; the last step is saved, whatever it is a multiple of. At SIGTERM the step
    that runs is finished and saved on all processes, and the run ends with exit code 143; during validation that waits
    until it is over, unless the step before it was saved, so that nothing is lost.

    Args:
        patience: seconds to wait for the folder of a run that is no more: loader processes may outlive a killed one.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.patience = patience
        self._lock: FileLock | None = None
        self._saved_at = -1
        self._signalled = self._stopping = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Hold the folder and see to its files.

        Raises:
            BlockingIOError: another run holds it.
            ValueError: the average or the checkpoints do not go with how weights are sharded.
        """
        if stage != "fit":
            return
        check_sharding(trainer)
        if isinstance(trainer.strategy, FSDPStrategy):
            fit_for_fsdp(trainer.strategy, pl_module)
        folder = Path(trainer.default_root_dir)
        refusal = trainer.strategy.broadcast(self._hold(folder) if trainer.is_global_zero else "")
        if refusal:
            raise BlockingIOError(refusal)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make sure of the room for checkpoints, and listen for SIGTERM, after Lightning, whose way stops mid-step.

        Raises:
            ValueError: there is too little room.
        """
        refusal = trainer.strategy.broadcast(too_little_room(trainer, pl_module) if trainer.is_global_zero else "")
        if refusal:
            raise ValueError(refusal)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._signal)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """All processes stop after the same step: a signal may have reached one of them only."""
        self._stopping = trainer.strategy.reduce_boolean_decision(self._signalled, all=False)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if a signal came."""
        if self._stopping:
            if not in_a_row(trainer):
                self._save(trainer)
            self._stop(trainer)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Stop, if a signal came and the last step is saved."""
        nothing_lost = trainer.state.fn == "fit" and self._saved_at == trainer.global_step
        if nothing_lost and trainer.strategy.reduce_boolean_decision(self._signalled, all=False):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last step."""
        if self._saved_at != trainer.global_step:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the step."""
        self._saved_at = trainer.global_step

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let go of the folder: after an exception there is no teardown."""
        self._let_go()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of the folder."""
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            with suppress(FileNotFoundError):
                Path(self._lock.lock_file).with_name(HOLDER).unlink()
            self._lock.release()
            self._lock = None

    def _hold(self, folder: Path) -> str:
        """Hold a folder; a sentence if that cannot be."""
        self._lock, holder = FileLock(folder / LOCK), folder / HOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                self._lock.acquire(timeout=0)
            if not self._lock.is_locked:
                self._lock.acquire(timeout=0 if _alive(holder) else self.patience)
        except Timeout:
            self._lock = None
            return f"{folder} is in use by {_who(holder)}; wait for that run, or train into another folder"
        except OSError as error:
            self._lock = None
            return f"{folder} cannot be written to: {error.strerror}"
        now = datetime.now().isoformat(" ", "seconds")
        beside = holder.with_suffix(".tmp")
        beside.write_text(json.dumps({"process": os.getpid(), "machine": MACHINE, "since": now}))
        os.replace(beside, holder)
        return ""

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _save(self, trainer: L.Trainer) -> None:
        """Save as the recipe's `ModelCheckpoint` does, which is told so."""
        saver = trainer.checkpoint_callback
        if not isinstance(saver, ModelCheckpoint) or not saver.save_last or saver.dirpath is None:
            return
        path = os.path.join(saver.dirpath, saver.CHECKPOINT_NAME_LAST + saver.FILE_EXTENSION)
        saver.last_model_path = path
        trainer.save_checkpoint(path, saver.save_weights_only)
        saver._last_global_step_saved, saver._last_checkpoint_saved = trainer.global_step, path

    def _stop(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            print(f"stopped by SIGTERM at step {trainer.global_step}; the same command goes on from there", flush=True)
        raise SystemExit(TERMINATED)


def _who(holder: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(holder.read_text())
        return f"process {known['process']} on {known['machine']}, since {known['since']}"
    return "another run"


def _alive(holder: Path) -> bool:
    """Whether the process that holds a folder is known to run: on this machine."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(holder.read_text())
        os.kill(known["process"], 0)
        return bool(known["machine"] == MACHINE)
    return False


def in_a_row(trainer: L.Trainer) -> int:
    """How many steps have been skipped in a row, up to the last."""
    return max((c.in_a_row for c in trainer.callbacks if isinstance(c, SkipNonFinite)), default=0)  # type: ignore[attr-defined]


def check_sharding(trainer: L.Trainer) -> None:
    """Make sure that what a recipe asks for works where every process holds a part of the weights.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        return
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ValueError(
            "EMAWeightAveraging cannot average weights that fsdp shards, since it copies them before; name "
            f"{ShardedEMA.__module__}.ShardedAverage with the same decay in the recipe instead, or train with ddp"
        )
    if getattr(trainer.strategy, "_state_dict_type", "full") != "full":
        raise ValueError("a checkpoint is one whole file here: fsdp needs state_dict_type full, and not sharded")


def fit_for_fsdp(strategy: FSDPStrategy, module: L.LightningModule) -> None:
    """What fsdp asks of a stage.

    Lightning would cast what is in a batch, and refuses frozen dataclasses; ours are float32 as they come. And fsdp
    puts weights in the order of memory but the optimiser state of a checkpoint in that of indices: they have to agree.
    """
    strategy.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]
    module.to(memory_format=torch.contiguous_format)


def too_little_room(trainer: L.Trainer, module: L.LightningModule) -> str:
    """A sentence, if the checkpoints that a run keeps, and one that is being written, do not fit where they go."""
    saver = trainer.checkpoint_callback
    if not isinstance(saver, ModelCheckpoint) or saver.dirpath is None or "://" in str(saver.dirpath):
        return ""
    folder = Path(saver.dirpath)
    folder.mkdir(parents=True, exist_ok=True)
    each = checkpoint_bytes(trainer, module)
    kept = max(saver.save_top_k, 0) + bool(saver.save_last)
    there = sum(path.stat().st_size for path in folder.glob(f"*{saver.FILE_EXTENSION}"))
    needed, free = max(each, (kept + 1) * each - there), shutil.disk_usage(folder).free
    if free >= needed:
        return ""
    return (
        f"checkpoints of this run take about {each / 1e9:.3g} GB each, and {needed / 1e9:.3g} GB have to be free in "
        f"{folder} to write them whole; there are {free / 1e9:.3g} GB"
    )


def checkpoint_bytes(trainer: L.Trainer, module: L.LightningModule) -> int:
    """About how large a checkpoint is: weights, their average, and Adam's two moments of each trained weight."""
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    averaged = any(isinstance(c, WeightAveraging | ShardedEMA) for c in trainer.callbacks)  # type: ignore[attr-defined]
    whole = weights * (1 + averaged) + 2 * trained
    return whole * (trainer.world_size if isinstance(trainer.strategy, FSDPStrategy) else 1)
