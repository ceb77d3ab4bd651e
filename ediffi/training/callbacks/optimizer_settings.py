"""Rate, weight decay and schedule of a resumed run: as its recipe says now, not as its checkpoint was written."""

import copy
import logging
from collections import defaultdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer

logger = logging.getLogger(__name__)


class OptimizerSettings(L.Callback):
    """Resumes an optimiser with its moments alone, and a schedule at the step of the checkpoint.

    torch and Lightning load both with the settings that they were saved with, so that a changed learning rate, weight
    decay or length of the schedule had no effect on a resumed run. A new schedule is stepped to where the run is: with
    the same settings, the rates are those of the unbroken run, bit for bit. Moments of another optimiser than the
    recipe's are of no use to it, so that its own start anew.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """ValueError: a callback would set other rates."""
        for callback in trainer.callbacks if stage == "fit" else ():  # type: ignore[attr-defined]
            if isinstance(callback, LearningRateFinder | StochasticWeightAveraging):
                rest = "has a rate of its own, and a run trains at that of model.optimizer and model.lr_scheduler"
                raise ValueError(f"the callback {type(callback).__name__} {rest}: leave it out")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The optimisers have the recipe's settings, and nothing is loaded into them yet."""
        for optimizer in trainer.optimizers:
            keep_settings(optimizer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave the schedules new."""
        checkpoint["lr_schedulers"] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step the schedules to where the run is."""
        for config in trainer.lr_scheduler_configs:
            done = trainer.global_step if config.interval == "step" else trainer.current_epoch
            scheduler: Any = config.scheduler
            scheduler.optimizer._opt_called = True  # or torch warns that the optimiser should step first
            for _ in range(done // config.frequency):
                scheduler.step()


def keep_settings(optimizer: Optimizer) -> None:
    """Let later `load_state_dict`s bring the moments, if they are this optimiser's, and leave the settings of the
    groups as they are now."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]

    def replace(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        if foreign(optimizer, state["state"]):
            state = {**state, "state": optimizer.state_dict()["state"]}
        groups = zip(state["param_groups"], settings, strict=False)  # torch refuses another number of groups
        merged = [{**saved, **own} for saved, own in groups]
        return {**state, "param_groups": merged} if len(merged) == len(state["param_groups"]) else state

    optimizer.register_load_state_dict_pre_hook(replace)


def foreign(optimizer: Optimizer, saved: dict[int, dict[str, Any]]) -> bool:
    """Whether saved moments are not those that an optimiser keeps, which is logged: it would raise a KeyError."""
    names, needed = {name for moments in saved.values() for name in moments}, kept(optimizer)
    if needed is None or not names or (needed and needed <= names):
        return False
    own = f"keeps {', '.join(sorted(needed))}" if needed else "keeps none"
    told = f"the checkpoint has the moments of another optimiser ({', '.join(sorted(names))})"
    rank_zero_only(logger.warning)("%s, and %s %s: they start anew", told, type(optimizer).__name__, own)
    return True


def kept(optimizer: Optimizer) -> set[str] | None:
    """The names of the moments that an optimiser keeps of a weight; None if a step on one number does not tell."""
    if optimizer.state:
        return {name for moments in optimizer.state.values() for name in moments}
    device = optimizer.param_groups[0]["params"][0].device
    weight = torch.nn.Parameter(torch.zeros(1, 1, device=device))
    weight.grad = torch.zeros_like(weight)
    probe = copy.copy(optimizer)  # shares nothing that a step changes
    probe.param_groups, probe.state = [{**optimizer.param_groups[0], "params": [weight]}], defaultdict(dict)
    try:
        probe.step()
    except (TypeError, LookupError, RuntimeError, ValueError):  # LBFGS wants a closure
        return None
    return set(probe.state[weight])
