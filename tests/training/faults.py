"""Faults to put into a run: callbacks that a recipe can name, in this process or in those it starts."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch


class Poison(L.Callback):
    """Makes the loss, or the gradient, NaN at some steps, on one process or on all.

    Args:
        steps: the steps, counted from 0.
        what: "loss" or "gradient".
        rank: the process; -1 for all.
    """

    def __init__(self, steps: list[int], what: str = "loss", rank: int = -1) -> None:
        self.steps, self.what, self.rank = steps, what, rank
        self.hook: Any = None

    def _wanted(self, trainer: L.Trainer) -> bool:
        return trainer.global_step in self.steps and self.rank in (-1, trainer.global_rank)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.what == "loss" and self._wanted(trainer):
            self.hook = pl_module.denoiser.register_forward_hook(lambda module, args, out: out * torch.nan)

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.hook is not None:
            self.hook.remove()
            self.hook = None
        if self.what == "gradient" and self._wanted(trainer):
            next(pl_module.parameters()).grad.view(-1)[0] = torch.inf


class KillWorkers(L.Callback):
    """Kills the loader's processes before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)


class Terminate(L.Callback):
    """Sends a signal, SIGTERM by default, to one process in a step; with `loaders`, to its loader processes too."""

    def __init__(self, step: int, rank: int = 0, name: str = "SIGTERM", times: int = 1, loaders: bool = False) -> None:
        self.step, self.rank, self.number, self.times = step, rank, signal.Signals[name], times
        self.loaders = loaders

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            for child in multiprocessing.active_children() if self.loaders else []:
                os.kill(child.pid, self.number)
            time.sleep(0.5 * self.loaders)  # for a loader to die in
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


class EndLate(L.Callback):
    """Keeps the process of a rank for some seconds after a signal, as a logger does that uploads what it has."""

    def __init__(self, rank: int, seconds: float) -> None:
        self.rank, self.seconds = rank, seconds

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if trainer.global_rank == self.rank:
            time.sleep(self.seconds)


class Die(L.Callback):
    """Kills the process of a rank in a step, unless the file `once` is there, which it leaves."""

    def __init__(self, step: int, rank: int, once: str) -> None:
        self.step, self.rank, self.once = step, rank, Path(once)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
