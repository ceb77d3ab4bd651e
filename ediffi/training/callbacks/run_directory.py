"""The directory of a run: one run at a time writes to it, and its checkpoints are complete files."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy

from ediffi.io import locks
from ediffi.training.atomic_checkpoint import AtomicCheckpointIO
from ediffi.training.callbacks.sharded_ema import ShardedEMA
from ediffi.training.finished_run import LOCK


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
        """Take the lock.

        Raises:
            BlockingIOError: another run has it, or the directory cannot be written to.
        """
        if stage != "fit":
            return
        refusal = trainer.strategy.broadcast(self._acquire(trainer) if trainer.is_global_zero else "")
        if refusal:  # every process raises, or the others would wait for the first
            raise BlockingIOError(refusal)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the free disk space with the size of the checkpoints.

        Raises:
            ValueError: there is too little.
        """
        refusal = trainer.strategy.broadcast(missing_space(trainer, pl_module) if trainer.is_global_zero else "")
        if refusal:
            raise ValueError(refusal)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Release the lock: after an exception Lightning calls no teardown."""
        self._lock.close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Release the lock."""
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
    present = sum(path.stat().st_size for path in folder.glob(f"*{saver.FILE_EXTENSION}"))
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
    averaged = any(isinstance(c, WeightAveraging | ShardedEMA) for c in trainer.callbacks)  # type: ignore[attr-defined]
    whole = weights * (1 + averaged) + 2 * trained
    return whole * (trainer.world_size if isinstance(trainer.strategy, FSDPStrategy) else 1)
