"""Exponential Adams methods: clock and coefficients, agreement with SA-Solver and UniPC, what the corrector does."""

import importlib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from ediffi.registry import samplers
from ediffi.registry.random import randn
from ediffi.registry.samplers.multistep import AdamsVariable, adams_coefficients
from ediffi.registry.samplers.schedules import BETA_MAX, BETA_MIN, karras, sigma_of, time_of, vp_time
from ediffi.registry.types import SamplerState

SPREAD = torch.linspace(0.2, 1.5, 7, dtype=torch.float64) ** 2


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of N(0, SPREAD)."""
    return x * SPREAD / (SPREAD + sigma[:, None] ** 2)


def noise(*shape: int) -> Tensor:
    return randn(shape, torch.Generator().manual_seed(1), dtype=torch.float64)


def vp_time_plainly(sigma: float) -> float:
    """t by solving Song et al.'s quadratic as school does."""
    return (-0.1 + math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + sigma**2))) / 19.9


CLOCKS: dict[AdamsVariable, Callable[[float], float]] = {"vp_time": vp_time_plainly, "log_sigma": math.log}


# The clock


@given(st.floats(1e-4, 300.0))
def test_the_clock_and_its_inverse(sigma: float) -> None:
    time = time_of(np.array([sigma]))
    assert float(sigma_of(time)[0]) == pytest.approx(sigma, rel=1e-11)
    if sigma > 0.01:  # below, the textbook formula loses digits
        assert float(time[0]) == pytest.approx(vp_time_plainly(sigma), rel=1e-9)


def test_the_clock_agrees_with_the_alphas_of_diffusers() -> None:
    """A DDPM of 1000 small steps under the same betas is the VP process in discrete time."""
    steps = 100_000
    betas = torch.linspace(BETA_MIN, BETA_MAX, steps, dtype=torch.float64) / steps
    scheduler = importlib.import_module("diffusers").DDPMScheduler(
        num_train_timesteps=steps, trained_betas=betas.numpy()
    )
    alphas = scheduler.alphas_cumprod.double()
    for index in (10_000, 50_000, 99_999):
        sigma = float(((1 - alphas[index]) / alphas[index]).sqrt())
        assert float(time_of(np.array([sigma]))[0]) == pytest.approx((index + 1) / steps, rel=1e-3)


# Coefficients


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(1.05, 6.0), min_size=2, max_size=4),
    st.floats(0.01, 20.0),
    st.booleans(),
    st.sampled_from(["vp_time", "log_sigma"]),
)
def test_polynomials_are_integrated_exactly(
    ratios: list[float], lowest: float, corrector: bool, variable: AdamsVariable
) -> None:
    """For D = v^m, m below the number of levels, the step is exact: against an adaptive quadrature of another kind."""
    grid = [lowest]
    for ratio in ratios:
        grid.append(grid[-1] * ratio)
    sigma_next, sigma = grid[0], grid[1]
    levels = grid if corrector else grid[1:]
    weights = adams_coefficients(levels, sigma, sigma_next, variable)
    clock = CLOCKS[variable]
    for m in range(len(levels)):
        exact, _ = quad(
            lambda lam, m=m: math.exp(lam) * clock(math.exp(-lam)) ** m,
            -math.log(sigma),
            -math.log(sigma_next),
            epsabs=0,
            epsrel=1e-12,
        )
        terms = [weight * clock(level) ** m for weight, level in zip(weights, levels, strict=True)]
        assert abs(sum(terms) - sigma_next * exact) < 1e-9 * (sum(map(abs, terms)) + abs(sigma_next * exact))


@pytest.mark.parametrize("h", [1e-3, 0.3, 2.0])
def test_order_two_in_log_sigma_has_its_closed_form(h: float) -> None:
    """(e^-h - 1 + h) / h_last on the difference of the two evaluations: phi_2 of an exponential integrator."""
    sigma, h_last = 2.0, 0.7
    first, second = adams_coefficients([sigma, sigma * math.exp(h_last)], sigma, sigma * math.exp(-h), "log_sigma")
    assert first + second == pytest.approx(-math.expm1(-h), rel=1e-12)
    assert second == pytest.approx(-(math.exp(-h) - 1 + h) / h_last, rel=1e-9)


@pytest.mark.parametrize("span", [(80.0, 79.999), (80.0, 0.002), (1e-3, 9e-4)])
@pytest.mark.parametrize("variable", ["vp_time", "log_sigma"])
def test_short_and_long_steps_keep_their_digits(span: tuple[float, float], variable: AdamsVariable) -> None:
    sigma, sigma_next = span
    weights = adams_coefficients([sigma, 1.3 * sigma, 2 * sigma], sigma, sigma_next, variable)
    assert sum(weights) == pytest.approx(1 - sigma_next / sigma, rel=1e-9)


# Agreement with independent implementations


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_in_log_sigma_the_coefficients_are_those_of_sa_solver(count: int) -> None:
    """SA-Solver (arXiv 2309.05019) without noise, by its closed forms; the corrector's too."""
    scheduler = importlib.import_module("diffusers").SASolverScheduler(algorithm_type="data_prediction")
    grid = torch.tensor([0.4, 0.9, 1.7, 4.2, 11.0], dtype=torch.float64)
    for levels in (grid[1 : count + 1], grid[:count]):  # the predictor's, the corrector's
        theirs = scheduler.get_coefficients_fn(
            count, -grid[1].log(), -grid[0].log(), list(-levels.log()), torch.tensor(0.0, dtype=torch.float64)
        )
        expected = [float(grid[0] * value) for value in theirs]
        assert adams_coefficients(levels.tolist(), 0.9, 0.4, "log_sigma") == pytest.approx(
            expected, rel=1e-9, abs=1e-11
        )


def unipc(order: int, sigmas: Tensor, step: int, outputs: list[Tensor]) -> Any:
    """diffusers' UniPC of this order amid a run: at `step`, having seen `outputs`."""
    scheduler = importlib.import_module("diffusers").UniPCMultistepScheduler(solver_order=order)
    scheduler.set_timesteps(len(sigmas))
    scheduler.sigmas, scheduler._step_index, scheduler.model_outputs = sigmas, step, outputs
    scheduler.timestep_list = list(range(len(outputs)))
    return scheduler


@pytest.mark.parametrize("order", [1, 3])
def test_in_log_sigma_the_predictor_is_unip(order: int) -> None:
    """In their VP coordinates, x / sqrt(1 + sigma^2). At order 2 theirs drops a term of third order, see below."""
    sigmas = torch.tensor([11.0, 4.2, 1.7, 0.9], dtype=torch.float64)
    x, outputs = noise(2, 3, 4, 4), list(noise(3, 2, 3, 4, 4))
    scale = (1 + sigmas**2).sqrt()
    theirs = unipc(order, sigmas, 2, outputs).multistep_uni_p_bh_update(outputs[-1], sample=x / scale[2], order=order)
    weights = adams_coefficients(sigmas[:3].flip(0)[:order].tolist(), 1.7, 0.9, "log_sigma")
    ours = x * 0.9 / 1.7 + sum(w * D for w, D in zip(weights, outputs[::-1], strict=False))
    torch.testing.assert_close(ours, theirs * scale[3], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3])
def test_in_log_sigma_the_corrector_is_unic(order: int) -> None:
    sigmas = torch.tensor([11.0, 4.2, 1.7, 0.9], dtype=torch.float64)
    x, (*outputs, new) = noise(2, 3, 4, 4), noise(4, 2, 3, 4, 4)
    scale = (1 + sigmas**2).sqrt()
    theirs = unipc(order, sigmas, 3, outputs).multistep_uni_c_bh_update(
        new, last_sample=x / scale[2], this_sample=x, order=order
    )
    weights = adams_coefficients(sigmas.flip(0)[: order + 1].tolist(), 1.7, 0.9, "log_sigma")
    ours = x * 0.9 / 1.7 + sum(w * D for w, D in zip(weights, [new, *outputs[::-1]], strict=False))
    torch.testing.assert_close(ours, theirs * scale[3], rtol=1e-10, atol=1e-10)


def test_in_log_sigma_order_two_is_dpmpp_2m_to_third_order_in_the_step() -> None:
    """DPM-Solver++(2M), and UniPC at order 2, replace (e^-h - 1 + h) / h by (1 - e^-h) / 2: O(h^2), on O(h)."""
    differences = []
    for h in (0.1, 0.05, 0.025):
        sigmas = torch.tensor([2 * math.exp(h), 2.0, 2 * math.exp(-h), 0.0], dtype=torch.float64)
        paths: dict[str, list[SamplerState]] = {"exp_ab": [], "dpmpp_2m": []}
        samplers.exp_ab(variable="log_sigma")(gaussian, noise(4, 7), sigmas, callback=paths["exp_ab"].append)
        samplers.dpmpp_2m()(gaussian, noise(4, 7), sigmas, callback=paths["dpmpp_2m"].append)
        differences.append(float((paths["exp_ab"][1].x - paths["dpmpp_2m"][1].x).abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(differences)] == pytest.approx([3, 3], abs=0.15)


@pytest.mark.parametrize("variable", ["vp_time", "log_sigma"])
def test_order_one_is_euler(variable: AdamsVariable) -> None:
    sigmas, x = karras(12, 0.002, 80.0, dtype=torch.float64), 80 * noise(4, 7)
    euler = samplers.euler()(gaussian, x, sigmas)
    torch.testing.assert_close(samplers.exp_ab(1, variable)(gaussian, x, sigmas), euler, rtol=1e-11, atol=1e-11)


# What the solvers do


def polynomial(sigma: float, degree: int) -> float:
    return 0.3 - 1.1 * vp_time_plainly(sigma) ** degree


def exact_step(x: Tensor, sigma: float, sigma_next: float, degree: int) -> Tensor:
    """From `sigma` to `sigma_next` where D is `polynomial`, whatever x is."""
    integral, _ = quad(
        lambda lam: math.exp(lam) * polynomial(math.exp(-lam), degree), -math.log(sigma), -math.log(sigma_next)
    )
    return x * sigma_next / sigma + sigma_next * integral


def states_for(name: str, order: int, degree: int, sigmas: Tensor) -> list[SamplerState]:
    """A run where D is `polynomial`."""
    states: list[SamplerState] = []
    samplers.create(name, order=order)(
        lambda x, sigma: torch.full_like(x, polynomial(float(sigma[0]), degree)),
        50 * noise(2, 3),
        sigmas,
        callback=states.append,
    )
    return states


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_polynomial_in_vp_time_is_followed_exactly(order: int) -> None:
    """Of degree below the order; from the first level with a full history on, wherever an expert might end."""
    sigmas = vp_time(9, 0.05, 50.0, dtype=torch.float64)
    states, grid = states_for("exp_ab", order, order - 1, sigmas), sigmas.tolist()
    for k in range(max(order - 1, 1), 8):
        exact = exact_step(states[k - 1].x, grid[k], grid[k + 1], order - 1)
        torch.testing.assert_close(states[k].x, exact, rtol=1e-9, atol=1e-9)
    if order > 1:
        assert (states[1].x - exact_step(states[0].x, *grid[1:3], order)).abs().max() > 1e-3, (
            "exact for more than it is"
        )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_corrector_follows_one_degree_more(order: int) -> None:
    """The corrected image, told from the next predicted one by undoing the predictor."""
    sigmas = vp_time(9, 0.05, 50.0, dtype=torch.float64)
    states, grid = states_for("exp_abm", order, order, sigmas), sigmas.tolist()

    def corrected(k: int) -> Tensor:
        levels = grid[k::-1][:order]
        weights = adams_coefficients(levels, grid[k], grid[k + 1])
        known = sum(w * polynomial(level, order) for w, level in zip(weights, levels, strict=True))
        return (states[k].x - known) * grid[k] / grid[k + 1]

    for k in range(order, 7):
        exact = exact_step(corrected(k), grid[k], grid[k + 1], order)
        torch.testing.assert_close(corrected(k + 1), exact, rtol=1e-9, atol=1e-9)
        assert (states[k].x - exact).abs().max() > 1e-6, "the predictor was exact already"


def test_the_corrector_sees_each_evaluation_once_and_asks_for_none() -> None:
    calls: list[float] = []

    def counting(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma[0]))
        return gaussian(x, sigma)

    sigmas = vp_time(8, 0.02, 80.0, dtype=torch.float64)
    for name in ("exp_ab", "exp_abm"):
        calls.clear()
        samplers.create(name)(counting, noise(2, 7), sigmas)
        assert calls == sigmas.tolist()[:-1]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_corrector_lowers_the_error_at_equal_calls(order: int) -> None:
    sigmas, x = karras(32, 0.02, 80.0, dtype=torch.float64), 80 * noise(6, 7)
    exact = x * ((SPREAD + 0.02**2) / (SPREAD + 80.0**2)).sqrt()
    errors = []
    for name in ("exp_ab", "exp_abm"):
        states: list[SamplerState] = []
        samplers.create(name, order=order)(gaussian, x, sigmas, callback=states.append)
        errors.append(float((states[-2].x - exact).abs().max()))
    assert errors[1] < errors[0] / 2
