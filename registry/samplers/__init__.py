"""The menu of samplers: solvers of the probability-flow ODE, by name.

    from registry import samplers
    samplers.names()
    sampler = samplers.create("heun", s_churn=40)
    images = sampler(denoise, x, karras(18, 0.002, 80))

Grids are in `registry.samplers.schedules`, the paper's own settings in `registry.samplers.presets`.
"""

import math

from registry.core import Registry
from registry.samplers.deis import Deis, Variable
from registry.samplers.dpmpp import DPMpp2M
from registry.samplers.runge_kutta import EULER, HEUN, KUTTA3, Churn, RungeKutta
from registry.types import Sampler

REGISTRY: Registry[Sampler] = Registry("samplers")
names = REGISTRY.names
create = REGISTRY.create
describe = REGISTRY.describe
register = REGISTRY.register


@register
def euler(s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0) -> RungeKutta:
    """Euler's method, with EDM's churn: order 1, n network calls for n steps. Without churn it is DDIM.

    Args:
        s_churn: how much noise is added over the whole run; 0 is the deterministic ODE.
        s_tmin: lowest noise level at which noise is added.
        s_tmax: highest noise level at which noise is added.
        s_noise: factor on the standard deviation of the added noise, about 1.
    """
    return RungeKutta(EULER, Churn(s_churn, s_tmin, s_tmax, s_noise))


@register
def heun(s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0) -> RungeKutta:
    """Heun's method, with EDM's churn (EDM, algorithms 1 and 2): order 2, 2n - 1 network calls for n steps.

    Args:
        s_churn: how much noise is added over the whole run; 0 is the deterministic ODE.
        s_tmin: lowest noise level at which noise is added.
        s_tmax: highest noise level at which noise is added.
        s_noise: factor on the standard deviation of the added noise, about 1.
    """
    return RungeKutta(HEUN, Churn(s_churn, s_tmin, s_tmax, s_noise))


@register
def kutta3() -> RungeKutta:
    """Kutta's third-order method, eDiff-I's "3kutta": order 3, 3(n - 1) + 1 network calls for n steps."""
    return RungeKutta(KUTTA3)


@register
def deis(order: int = 3, variable: Variable = "log_rho") -> Deis:
    """DEIS, multistep, in log rho: n network calls for n steps.

    Args:
        order: evaluations combined = order of convergence, 1 (DDIM) to 3; the DEIS paper's AB number is one less.
        variable: the interpolating polynomial is in "log_rho" or in "rho".
    """
    return Deis(order, variable)


@register
def dpmpp_2m() -> DPMpp2M:
    """DPM-Solver++(2M), multistep on the denoised picture: order 2, n network calls for n steps."""
    return DPMpp2M()
