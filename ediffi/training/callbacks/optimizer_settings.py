"""Rate, weight decay and schedule of a resumed run: as its recipe says now, not as its checkpoint was written."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LearningRateFinder, StochasticWeightAveraging
from torch.optim import Optimizer


class OptimizerSettings(L.Callback):
    """Resumes an optimiser with its moments alone, and a schedule at the step of the checkpoint.

    torch and Lightning load both with the settings that they were saved with, so that a changed learning rate, weight
    decay or length of the schedule had no effect on a resumed run. A new schedule is stepped to where the run is: with
    the same settings, the rates are those of the unbroken run, bit for bit.
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
    """Let later `load_state_dict`s bring the moments, and leave the settings of the groups as they are now."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]

    def replace(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        groups = zip(state["param_groups"], settings, strict=False)  # torch refuses another number of groups
        merged = [{**saved, **own} for saved, own in groups]
        return {**state, "param_groups": merged} if len(merged) == len(state["param_groups"]) else state

    optimizer.register_load_state_dict_pre_hook(replace)
