"""The paper's sampler settings, in both readings.

eDiff-I, table 7, says "DEIS, 3kutta, base 25 steps order 6, super-resolution 10 steps order 3". Our reading: 3kutta is
Kutta's third-order Runge-Kutta method in rho, with three network calls a step, so "order" is not the solver's. It is
the exponent of the time grid (`ts_order` in the DEIS authors' code), here the rho of `karras`. "Steps" can be read as:

- paper-steps: 25 (10) Runge-Kutta steps, plus the closing Euler step to 0: 26 (11) steps, 76 (31) network calls.
- paper-nfe: a budget of 25 (10) network calls: 8 (3) Runge-Kutta steps plus the closing one. Both numbers are 3k + 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ediffi.registry.core import UnknownNameError
from ediffi.registry.samplers.schedules import Grid

StageKind = Literal["base", "super_resolution"]


@dataclass(frozen=True)
class Preset:
    """A sampler and its grid, as names and numbers that JSON can hold."""

    sampler: str
    num_steps: int  # of the grid, the closing step to 0 among them
    rho: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    grid: Grid = "karras"


PRESETS: Mapping[str, Mapping[StageKind, Preset]] = {
    "paper-steps": {"base": Preset("kutta3", 26, 6.0), "super_resolution": Preset("kutta3", 11, 3.0)},
    "paper-nfe": {"base": Preset("kutta3", 9, 6.0), "super_resolution": Preset("kutta3", 4, 3.0)},
}


def preset(name: str, kind: StageKind) -> Preset:
    """The preset called `name` for a stage of this kind; UnknownNameError (a ValueError) lists the near names."""
    if name not in PRESETS:
        raise UnknownNameError.among(PRESETS, "sampler preset", name)
    if kind not in PRESETS[name]:
        raise UnknownNameError.among(PRESETS[name], "kind of stage", kind)
    return PRESETS[name][kind]
