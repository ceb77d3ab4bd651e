"""Recipes as text: class paths that earlier versions wrote, and where those classes are now."""

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

from ediffi.io import plain_yaml

logger = logging.getLogger(__name__)

SHORT = re.compile(r"(?<![\w./-])registry\.(?=(?:denoisers|encoders|samplers)\.\w)")
"""`registry.denoisers.NAME`, which may be written for `ediffi.registry.denoisers.NAME`."""
AVERAGES = ("WeightAveraging", ".EMA")
"""Endings of the class paths of callbacks that average weights."""
MOVED = {
    "ediffi.stages.finite.SkipNonFinite": "ediffi.training.callbacks.non_finite.SkipNonFinite",
    "ediffi.stages.keeper.Keeper": "ediffi.training.callbacks.preemption.PreemptionCheckpoint",
    "ediffi.stages.one_cycle.OneCycle": "ediffi.training.one_cycle.OneCycle",
    "ediffi.stages.pace.Pace": "ediffi.training.callbacks.throughput.Throughput",
    "ediffi.stages.sample_grid.SampleGrid": "ediffi.training.callbacks.sample_grid.SampleGrid",
    "ediffi.stages.schedule_bar.ScheduleBar": "ediffi.training.callbacks.schedule_bar.ScheduleBar",
    "ediffi.stages.sharded_average.ShardedAverage": "ediffi.training.callbacks.ema.EMA",
    "ediffi.training.callbacks.sharded_ema.ShardedEMA": "ediffi.training.callbacks.ema.EMA",
}


def current(text: str, warn: bool = False) -> str:
    """YAML, or a word of a command line, with every class path as it is now; `warn` logs each move once a process."""
    for old, new in MOVED.items():
        if old in text:
            text = text.replace(old, new)
            if warn:
                _warn(old, new)
    return SHORT.sub("ediffi.registry.", text)


@cache
def _warn(old: str, new: str) -> None:
    logger.warning(f"{old} has moved: write {new} in the recipe")


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings of a recipe, with current class paths; ValueError if it is no YAML or no mapping."""
    try:
        content = plain_yaml.load(current(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no recipe: it is a {type(content).__name__}, not settings by name")
    return content
