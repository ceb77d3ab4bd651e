"""The directory of a run: one run at a time writes to it, and its checkpoints are complete files."""

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy

from ediffi.io import files, locks
from ediffi.training import checkpoint as checkpoints
from ediffi.training import sharded_checkpoint
from ediffi.training.callbacks.ema import AVERAGES
from ediffi.training.finished_run import LOCK

logger = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits for the disk, and renames it into place.

    Lightning writes into memory and the system's temporary directory, and copies from there: a kill or a full disk in
    between would cut the last good checkpoint. Remote paths (s3://...) are left to Lightning; object stores replace
    whole objects.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """The file at `path` stays as it is until the new one is on the disk; an OSError leaves no part of that."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        content = {**checkpoint, checkpoints.DIGEST: checkpoints.digest(checkpoint)}
        try:
            with files.replacing(place) as beside, beside.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch hides the system's error
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(place)) from error
            raise
        files.synchronise(place.parent)
        sharded_checkpoint.sweep(place.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values onto the CPU; ValueError if the file is broken, was changed after it was saved,
        is not finite, or contains code."""
        if "://" not in str(path):
            return checkpoints.load(Path(path))
        return super().load_checkpoint(path, map_location or "cpu", weights_only=True)  # type: ignore[arg-type]


class RunDirectory(L.Callback):
    """Locks `trainer.default_root_dir`, and makes sure that its file system can take the checkpoints of the run.

    Checkpoints are written by `AtomicCheckpointIO`, unless the recipe names another plugin.

    Args:
        patience: seconds to wait for the lock of a run that has ended: its loader processes may outlive it.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.patience = patience
        self._lock = ExitStack()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the lock; BlockingIOError if another run has it, or the directory cannot be written to."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage != "fit":
            return
        refusal = trainer.strategy.broadcast(self._acquire(trainer) if trainer.is_global_zero else "")
        if refusal:  # every process raises, or the others would wait for the first
            raise BlockingIOError(refusal)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """ValueError if there is too little disk space for the checkpoints."""
        refusal = trainer.strategy.broadcast(missing_space(trainer, pl_module) if trainer.is_global_zero else "")
        if refusal:
            raise ValueError(refusal)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Release the lock, when what was saved before is written: after an exception Lightning calls no teardown."""
        try:
            sharded_checkpoint.finish_saving(trainer.strategy)
        except (OSError, RuntimeError) as error:
            logger.warning("the last checkpoint was not written: %s", error)
        self._lock.close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._lock.close()

    def _acquire(self, trainer: L.Trainer) -> str:
        """Take the lock; the error message if that fails."""
        folder = Path(trainer.default_root_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locks.hold(folder / LOCK, self.patience))
        except BlockingIOError as error:
            return str(error)
        except OSError as error:
            return f"{folder} cannot be written to: {error.strerror}"
        return ""


def missing_space(trainer: L.Trainer, module: L.LightningModule) -> str:
    """An error message if the checkpoints that a run keeps, and the one it is writing, do not fit; "" if they do."""
    saver = trainer.checkpoint_callback
    if not isinstance(saver, ModelCheckpoint) or saver.dirpath is None or "://" in str(saver.dirpath):
        return ""
    folder = Path(saver.dirpath)
    folder.mkdir(parents=True, exist_ok=True)
    each = checkpoint_bytes(trainer, module)
    kept = max(saver.save_top_k, 0) + bool(saver.save_last)
    kinds = (f"*{saver.FILE_EXTENSION}", f"*{sharded_checkpoint.SUFFIX}/*")
    present = sum(path.stat().st_size for kind in kinds for path in folder.glob(kind))
    needed, free = max(each, (kept + 1) * each - present), shutil.disk_usage(folder).free
    if free >= needed:
        return ""
    return (
        f"checkpoints of this run take about {each / 1e9:.3g} GB each and need {needed / 1e9:.3g} GB of free disk "
        f"space in {folder}; {free / 1e9:.3g} GB are free"
    )


def checkpoint_bytes(trainer: L.Trainer, module: L.LightningModule) -> int:
    """Estimated size of a checkpoint: weights, their average, and Adam's two moments of each trained weight."""
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    averaged = any(isinstance(c, AVERAGES) for c in trainer.callbacks)  # type: ignore[attr-defined]
    whole = weights * (1 + averaged) + 2 * trained
    return whole * (trainer.world_size if isinstance(trainer.strategy, FSDPStrategy) else 1)
