"""SIGTERM and SIGUSR1, which a cluster sends before it takes the machine away, and Ctrl-C (SIGINT)."""

import logging
import os
import signal
import subprocess
import threading
import time
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import Optimizer

from ediffi.training.sharded_checkpoint import finish_saving

logger = logging.getLogger(__name__)
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGUSR1: "SIGUSR1"}
AGAIN_AFTER = 1.0
"""Seconds before a Ctrl-C counts as another one: torchrun sends each process the one that the terminal has sent it."""


class PreemptionCheckpoint(L.Callback):
    """Saves the step in progress at SIGTERM, Ctrl-C or SIGUSR1 and ends the run with exit code 143, 130 or 138; the
    same command resumes it. A second Ctrl-C ends it at once.

    Under srun, SIGUSR1 (`sbatch --signal=SIGUSR1@90`) also puts the job back into the queue, unless
    `SLURMEnvironment(auto_requeue=False)` is a plug-in of the trainer, and the exit code is 143. The state is always
    that of `last.ckpt`: Lightning's own `hpc_ckpt_N.ckpt` pile up, and runs do not resume from them.

    All processes end after the same step. A validation is broken off only if its step is saved already. A run that
    reaches its last step saves it too, whatever `every_n_train_steps` says.
    """

    def __init__(self) -> None:
        self._saved_at = -1
        self._number = 0
        self._signalled_at = 0.0
        self.signalled = False
        """The signal has reached this process."""
        self._requeue = False  # and was SLURM's
        self.stopping = self.skipped = False
        """The signal has reached some process, and this step is skipped."""
        self.asks = True
        """False where `SkipNonFinite` asks all processes for both of these at once."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the handlers that would end the run in the middle of a step; Lightning gives them back at its end."""
        self.signalled, self._requeue, self._number = False, False, 0
        if threading.current_thread() is threading.main_thread():
            environment = trainer._accelerator_connector.cluster_environment
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
                signal.signal(environment.requeue_signal or signal.SIGUSR1, self._on_requeue)
            elif signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:  # which would end the process in the step
                signal.signal(signal.SIGUSR1, self._on_signal)
            # Lightning asks all processes for its own handler's signal at each batch, and waits for the answer.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Agree with the other processes: the signal may have reached one of them only."""
        if self.asks:
            self.stopping = trainer.strategy.reduce_boolean_decision(self.signalled, all=False)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Save and end the run; a skipped step is not saved."""
        if self.stopping:
            if not self.skipped:
                self._save(trainer)
            self._stop(trainer)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """End the run if its last step is saved."""
        saved = trainer.state.fn == "fit" and self._saved_at == trainer.global_step
        if saved and trainer.strategy.reduce_boolean_decision(self.signalled, all=False):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last step."""
        last = 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1
        ends = trainer.should_stop or last or 0 < trainer.max_steps <= trainer.global_step
        if ends and self._saved_at != trainer.global_step:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved_at = trainer.global_step

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signalled and number == signal.SIGINT and now - self._signalled_at >= AGAIN_AFTER:
            logger.warning("interrupted by Ctrl-C; nothing is saved")
            raise SystemExit(128 + number)
        if not self.signalled:
            self.signalled, self._signalled_at, self._number = True, now, number
            if number == signal.SIGINT:
                logger.warning("Ctrl-C: the run is saved after this step; again ends it at once")

    def _on_requeue(self, number: int, frame: FrameType | None) -> None:
        self._requeue = True
        self._on_signal(signal.SIGTERM, frame)

    def _save(self, trainer: L.Trainer) -> None:
        """Save as the recipe's `ModelCheckpoint` would, and let it know."""
        saver = trainer.checkpoint_callback
        if not isinstance(saver, ModelCheckpoint) or saver.dirpath is None:
            return
        path = saver.format_checkpoint_name(saver._monitor_candidates(trainer))
        if saver.save_last:
            path = os.path.join(saver.dirpath, saver.CHECKPOINT_NAME_LAST + saver.FILE_EXTENSION)
            saver.last_model_path = path
        trainer.save_checkpoint(path, saver.save_weights_only)
        finish_saving(trainer.strategy)
        saver._last_global_step_saved, saver._last_checkpoint_saved = trainer.global_step, path

    def _stop(self, trainer: L.Trainer) -> None:
        strategy = trainer.strategy
        own = torch.tensor(self._number, device=strategy.root_device)
        number = int(strategy.reduce(own, reduce_op="max"))  # of the processes that have got it
        if trainer.is_global_zero:
            by = "SLURM's signal" if self._requeue else NAMES[signal.Signals(number)]
            logger.info("stopped by %s at step %d; the same command resumes the run", by, trainer.global_step)
            if self._requeue:
                requeue()
        strategy.barrier()  # `srun --kill-on-bad-exit` kills the others when one has ended
        # Lightning kills the process that has started the others, if one of these ends with another code than 0.
        environment = trainer._accelerator_connector.cluster_environment
        started = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
        raise SystemExit(0 if started else 128 + number)


def requeue() -> None:
    """Put this SLURM job back into the queue; the log says why if that fails."""
    job, array = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_JOB_ID")
    job = job if array is None else f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        logger.info("SLURM job %s is in the queue again", job)
    except (OSError, subprocess.CalledProcessError) as error:
        cause = (getattr(error, "stderr", "") or str(error)).strip()
        logger.warning("SLURM job %s is not in the queue again (%s); submit it again", job, cause)
