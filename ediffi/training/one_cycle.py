"""A learning rate that is said once: by the optimiser. And a run's length: by the trainer."""

from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR


class OneCycle(OneCycleLR):
    """Up to the optimiser's own learning rate, then down to almost nothing (Smith & Topin, arXiv 1708.07120).

    torch's `OneCycleLR` with what a recipe has said already as the default; it leaves the optimiser's momentum alone. A
    subclass, because Lightning takes no other schedule from YAML.

    Args:
        optimizer: whose learning rate it sets.
        max_lr: the highest rate; the optimiser's own by default.
        total_steps: how long it takes; in a recipe the steps of the run (`trainer.max_steps`) by default.
        pct_start: share of the steps that go up.
        div_factor: the highest rate over the first one.
        final_div_factor: the first rate over the last one.

    Raises:
        ValueError: nobody says how many steps there are, or a value is out of range.
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
        super().__init__(
            optimizer,
            highest,
            total_steps,
            pct_start=pct_start,
            cycle_momentum=False,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
        )


def over(schedule: Any, optimizer: Optimizer, max_steps: int) -> LRScheduler:
    """The schedule of a run: its `total_steps`, where it takes any and the recipe says none, are those of the run.

    Args:
        schedule: makes it of an optimiser; from YAML a `partial` of what the recipe says.
        optimizer: of the run.
        max_steps: of the run; -1 for no end.

    Raises:
        ValueError: it ends before the run, or the run has no end.
    """
    said = schedule.keywords if isinstance(schedule, partial) else {}
    if said.get("total_steps", 0) is None and said.get("epochs") is None:
        if max_steps < 1:
            raise ValueError("trainer.max_steps must be given, since the learning rate ends with it")
        schedule = partial(schedule, total_steps=max_steps)
    made: LRScheduler = schedule(optimizer)
    if isinstance(made, OneCycleLR) and made.total_steps < max_steps:
        raise ValueError(
            f"the learning rate's schedule ends after total_steps {made.total_steps}, the run goes on to "
            f"trainer.max_steps {max_steps}; leave total_steps out, and it is as long as the run"
        )
    return made
