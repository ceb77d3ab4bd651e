"""The learning rate's schedule, with peak and length taken from where the recipe has them already."""

from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau


class OneCycle(OneCycleLR):
    """Up to the optimiser's own learning rate, then down to almost nothing (Smith & Topin, arXiv 1708.07120).

    torch's `OneCycleLR` with defaults from the recipe, and without cycling the momentum. A subclass, because Lightning
    accepts no other schedule from YAML.

    Args:
        optimizer: whose learning rate it sets.
        max_lr: the highest rate; the optimiser's own by default.
        total_steps: length; in a recipe the steps of the run (`trainer.max_steps`) by default.
        pct_start: share of the steps that go up.
        div_factor: the highest rate over the first one.
        final_div_factor: the first rate over the last one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | None = None,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        highest = [group["lr"] if max_lr is None else max_lr for group in optimizer.param_groups]
        # The momentum stays: the paper's betas are constant (table 7).
        shape: dict[str, Any] = {"div_factor": div_factor, "final_div_factor": final_div_factor}
        super().__init__(optimizer, highest, total_steps, pct_start=pct_start, cycle_momentum=False, **shape)


def over(schedule: Any, optimizer: Optimizer, max_steps: int) -> LRScheduler:
    """The schedule of a run; its `total_steps`, if it has any and the recipe gives none, are those of the run.

    From YAML, `schedule` is a `partial` with the recipe's arguments. ValueError if it ends before the run, or if the
    run has no end.
    """
    given = schedule.keywords if isinstance(schedule, partial) else {}
    if given.get("total_steps", 0) is None and given.get("epochs") is None:
        if max_steps < 1:
            raise ValueError("trainer.max_steps must be given, since the learning rate ends with it")
        schedule = partial(schedule, total_steps=max_steps)
    made: LRScheduler = schedule(optimizer)
    if isinstance(made, ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau waits for a validation, and model.lr_scheduler goes by steps: take another")
    if isinstance(made, OneCycleLR) and made.total_steps < max_steps:
        raise ValueError(
            f"the schedule of the learning rate ends after total_steps {made.total_steps}, the run after "
            f"trainer.max_steps {max_steps}; leave total_steps out, and it is as long as the run"
        )
    return made


def in_steps(optimizer: Optimizer, schedule: Any, max_steps: int) -> Any:
    """What `configure_optimizers` returns: the optimiser, with its schedule in steps unless that is None."""
    if schedule is None:
        return optimizer
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": over(schedule, optimizer, max_steps), "interval": "step"},
    }
