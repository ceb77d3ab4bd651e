"""The samplers by name: solvers of the probability-flow ODE.

    from ediffi.registry import samplers
    sampler = samplers.create("heun", s_churn=40)
    images = sampler(denoise, x, karras(18, 0.002, 80))

Grids are in `ediffi.registry.samplers.schedules`, the paper's own settings in `ediffi.registry.samplers.presets`.
"""

import math
from typing import Any

from ediffi.registry.core import Registry, variant
from ediffi.registry.samplers.multistep import AdamsVariable, Deis, DeisVariable, DPMpp2M, ExpAdams
from ediffi.registry.samplers.runge_kutta import EULER, HEUN, KUTTA3, Churn, RungeKutta
from ediffi.registry.samplers.solver import Solver
from ediffi.registry.types import Sampler

REGISTRY: Registry[Sampler] = Registry("samplers")
register, create, names, describe = REGISTRY.register, REGISTRY.create, REGISTRY.names, REGISTRY.describe


@register
def euler(s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0) -> Solver:
    """Euler's method, with EDM's churn: order 1, n network calls for n steps. Without churn it is DDIM.

    Args:
        s_churn: how much noise is added over the whole run; 0 is the deterministic ODE.
        s_tmin: lowest noise level at which noise is added.
        s_tmax: highest noise level at which noise is added.
        s_noise: factor on the standard deviation of the added noise, about 1.
    """
    return Solver(RungeKutta(EULER, Churn(s_churn, s_tmin, s_tmax, s_noise)))


@register
@variant(euler)
def heun(**churn: Any) -> Solver:
    """Heun's method, with EDM's churn (EDM, algorithms 1 and 2): order 2, 2n - 1 network calls for n steps."""
    return Solver(RungeKutta(HEUN, Churn(**churn)))


@register
def kutta3() -> Solver:
    """Kutta's third-order method, eDiff-I's "3kutta": order 3, 3(n - 1) + 1 network calls for n steps."""
    return Solver(RungeKutta(KUTTA3))


@register
def deis(order: int = 3, variable: DeisVariable = "log_rho") -> Solver:
    """DEIS, multistep, in log rho: n network calls for n steps.

    Args:
        order: evaluations combined = order of convergence, 1 (DDIM) to 3; the DEIS paper's AB number is one less.
        variable: the interpolating polynomial is in "log_rho" or in "rho".
    """
    return Solver(Deis(order, variable))


@register
def dpmpp_2m() -> Solver:
    """DPM-Solver++(2M), multistep on the denoised image: order 2, n network calls for n steps."""
    return Solver(DPMpp2M())


@register
def exp_ab(order: int = 2, variable: AdamsVariable = "vp_time") -> Solver:
    """Exponential Adams-Bashforth on the denoised image, in VP time: n network calls for n steps.

    Meant for the grid that is uniform in t^(1/3), `ediffi.registry.samplers.schedules.vp_time`.

    Args:
        order: evaluations combined = order of convergence, 1 (DDIM) to 3.
        variable: the interpolating polynomial is in "vp_time" or in "log_sigma".
    """
    return Solver(ExpAdams(order, variable, corrector=False))


@register
def exp_abm(order: int = 3, variable: AdamsVariable = "vp_time") -> Solver:
    """Exponential Adams-Bashforth-Moulton, `exp_ab` with a corrector as UniPC's: n network calls for n steps.

    Each evaluation also corrects the step that led to it. Meant for the same grid as `exp_ab`. With guidance on the
    Toybox net, order 2 was nearer to the solution up to 25 calls, order 3 from 40 on (benchmarks/sampler_order.py).

    Args:
        order: evaluations that the predictor combines, 1 to 3; as in UniPC, the order of convergence is one more.
        variable: the interpolating polynomial is in "vp_time" or in "log_sigma".
    """
    return Solver(ExpAdams(order, variable, corrector=True))
