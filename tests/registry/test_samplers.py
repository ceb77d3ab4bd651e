"""Samplers: identities, then orders of convergence, then agreement with k-diffusion and diffusers, then behaviour.

Every test over `EVERY` runs for each registered sampler: registering buys the tests.
"""

import importlib
import inspect
import math
import warnings
from collections.abc import Iterator
from itertools import chain, pairwise
from types import ModuleType
from typing import Any

import jaxtyping
import jsonargparse
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ediffi.registry import samplers
from ediffi.registry.random import Philox, noise_like, randn
from ediffi.registry.samplers.multistep import Deis, DeisVariable, deis_coefficients
from ediffi.registry.samplers.runge_kutta import EULER, HEUN, KUTTA3, Churn, Tableau
from ediffi.registry.samplers.schedules import karras
from ediffi.registry.samplers.solver import Solver
from ediffi.registry.types import Denoise, Sampler, SamplerState

EVERY = samplers.names()
CHURN = {"s_churn": 8.0, "s_noise": 1.003}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in EVERY),
    ("euler", CHURN),
    ("heun", CHURN),
    ("deis", {"order": 1}),
    ("deis", {"order": 2}),
    ("deis", {"order": 3, "variable": "rho"}),
    ("exp_ab", {"order": 3}),
    ("exp_ab", {"variable": "log_sigma"}),
    ("exp_abm", {"order": 1}),
]
MULTISTEP = ("deis", "dpmpp_2m", "exp_ab", "exp_abm")
VARIANCE = torch.linspace(0.2, 1.5, 7, dtype=torch.float64) ** 2
MEAN = torch.linspace(-0.5, 0.5, 7, dtype=torch.float64)
MODES = torch.tensor([[0.8, -0.3, 0.1], [-0.5, 0.6, -0.9], [0.2, 0.9, 0.7]], dtype=torch.float64)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of N(MEAN, VARIANCE), x [b, 7]: (s^2 x + sigma^2 m) / (s^2 + sigma^2)."""
    v = sigma[:, None] ** 2
    return ((VARIANCE * x + v * MEAN) / (VARIANCE + v)).to(x.dtype)


def gaussian_flow(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exact solution for `gaussian`: the deviation from the mean shrinks with the noisy standard deviation."""
    return MEAN + (x - MEAN) * ((VARIANCE + sigma_next**2) / (VARIANCE + sigma**2)).sqrt()


def mixture(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of a mixture of narrow Gaussians at MODES, x [b, 3]: not linear in x."""
    v = sigma[:, None] ** 2
    narrow = 0.1**2
    logits = -((x[:, None] - MODES) ** 2).sum(-1) / (2 * (narrow + v))
    return (narrow * x + v * (logits.softmax(-1) @ MODES)) / (narrow + v)


def counted(denoise: Denoise) -> tuple[Denoise, list[float]]:
    """The denoiser, and the list of the sigmas that it is called with."""
    seen: list[float] = []

    def wrapped(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == x.shape[:1]
        assert (sigma == sigma[0]).all()
        seen.append(sigma[0].item())
        return denoise(x, sigma)

    return wrapped, seen


def noise(*shape: int, scale: float = 80.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * randn(shape, torch.Generator().manual_seed(1), dtype=dtype)


# Identities


@pytest.mark.parametrize(("tableau", "order"), [(EULER, 1), (HEUN, 2), (KUTTA3, 3)])
def test_tableaus_meet_the_order_conditions(tableau: Tableau, order: int) -> None:
    a, b, c = tableau.a, tableau.b, tableau.c
    assert [sum(row) for row in a] == pytest.approx(list(c))
    assert sum(b) == pytest.approx(1)
    if order >= 2:
        assert sum(bi * ci for bi, ci in zip(b, c, strict=True)) == pytest.approx(1 / 2)
    if order >= 3:
        assert sum(bi * ci**2 for bi, ci in zip(b, c, strict=True)) == pytest.approx(1 / 3)
        nested = sum(b[i] * a[i][j] * c[j] for i in range(len(b)) for j in range(len(a[i])))
        assert nested == pytest.approx(1 / 6)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0.15, 0.95), min_size=1, max_size=3), st.floats(0.1, 80.0), st.sampled_from(["log_rho", "rho"])
)
def test_deis_coefficients_integrate_polynomials_exactly(
    ratios: list[float], rho: float, variable: DeisVariable
) -> None:
    """With k levels, the integral of v(rho)^m d rho is exact for m < k: in log rho by the antiderivatives below."""
    rhos = [rho]
    for ratio in ratios[1:]:
        rhos.append(rhos[-1] / ratio)
    rho_next = rho * ratios[0]
    weights = deis_coefficients(rhos, rho_next, variable)
    antiderivatives = {
        "log_rho": [lambda r: r, lambda r: r * (math.log(r) - 1), lambda r: r * ((math.log(r) - 1) ** 2 + 1)],
        "rho": [lambda r: r, lambda r: r**2 / 2, lambda r: r**3 / 3],
    }[variable]
    for m, antiderivative in enumerate(antiderivatives[: len(rhos)]):
        terms = [w * (math.log(r) if variable == "log_rho" else r) ** m for w, r in zip(weights, rhos, strict=True)]
        exact = antiderivative(rho_next) - antiderivative(rho)
        scale = sum(abs(term) for term in terms) + abs(antiderivative(rho_next)) + abs(antiderivative(rho))
        assert abs(sum(terms) - exact) < 1e-10 * scale


def test_deis_of_order_one_is_euler() -> None:
    sigmas = karras(12, 0.002, 80.0, dtype=torch.float64)
    x = noise(4, 3)
    euler = samplers.euler()(mixture, x, sigmas)
    for variable in ("log_rho", "rho"):
        deis = samplers.deis(order=1, variable=variable)(mixture, x, sigmas)
        torch.testing.assert_close(deis, euler, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", EVERY)
def test_one_step_returns_the_denoised_image(name: str) -> None:
    x = noise(2, 7, dtype=torch.float32)
    sigmas = karras(1, 0.002, 80.0)
    assert torch.equal(samplers.create(name)(gaussian, x, sigmas), gaussian(x, sigmas[:1].expand(2)))


@pytest.mark.parametrize("name", EVERY)
def test_the_last_step_returns_the_denoised_image(name: str) -> None:
    states: list[SamplerState] = []
    sigmas = karras(6, 0.002, 80.0, dtype=torch.float64)
    images = samplers.create(name)(gaussian, noise(2, 7), sigmas, callback=states.append)
    assert torch.equal(images, gaussian(states[-2].x, sigmas[-2:-1].expand(2)))
    assert torch.equal(images, states[-1].denoised)


@pytest.mark.parametrize("name", EVERY)
def test_one_clean_image_is_reached_on_a_straight_line(name: str) -> None:
    """Data of one point m: D = m, the solution is m + (x - m) sigma / sigma_max, and no solver may leave it."""
    point = torch.tensor([0.3, -0.9], dtype=torch.float64)
    sigmas, x = karras(7, 0.01, 50.0, dtype=torch.float64), noise(3, 2, scale=50.0)
    states: list[SamplerState] = []
    samplers.create(name)(lambda x, sigma: point.expand_as(x), x, sigmas, callback=states.append)
    for state, sigma in zip(states, sigmas.tolist()[1:], strict=True):
        torch.testing.assert_close(state.x, point + (x - point) * sigma / 50.0, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_a_batch_equals_its_single_runs(name: str, arguments: dict[str, Any]) -> None:
    sampler, sigmas = samplers.create(name, **arguments), karras(6, 0.02, 10.0)
    x = 10 * randn((4, 7), Philox(0, range(4)))
    batch = sampler(gaussian, x, sigmas, generator=Philox(1, range(4)))
    for k in range(4):
        single = sampler(gaussian, x[k : k + 1], sigmas, generator=Philox(1, [k]))
        assert torch.equal(single[0], batch[k])


# Order of convergence

ORDERS: list[tuple[str, dict[str, Any], int]] = [
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("kutta3", {}, 3),
    ("deis", {"order": 1}, 1),
    ("deis", {"order": 2}, 2),
    ("deis", {"order": 3}, 3),
    ("deis", {"order": 2, "variable": "rho"}, 2),
    ("deis", {"order": 3, "variable": "rho"}, 3),
    ("dpmpp_2m", {}, 2),
    ("exp_ab", {"order": 1}, 1),
    ("exp_ab", {}, 2),
    ("exp_ab", {"order": 3}, 3),
    ("exp_ab", {"order": 2, "variable": "log_sigma"}, 2),
    ("exp_ab", {"order": 3, "variable": "log_sigma"}, 3),
    ("exp_abm", {"order": 1}, 2),
    ("exp_abm", {"order": 2}, 3),
    ("exp_abm", {}, 4),
    ("exp_abm", {"order": 3, "variable": "log_sigma"}, 4),
]


@pytest.mark.parametrize(("name", "arguments", "order"), ORDERS)
def test_order_of_convergence(name: str, arguments: dict[str, Any], order: int) -> None:
    """Slope of the error at sigma_min (the step to 0 is not a matter of the step size) on a Gaussian's exact flow."""
    x, errors = noise(4, 7), []
    for num_steps in (64, 128, 256):
        states: list[SamplerState] = []
        sigmas = karras(num_steps, 0.02, 80.0, dtype=torch.float64)
        samplers.create(name, **arguments)(gaussian, x, sigmas, callback=states.append)
        errors.append((states[-2].x - gaussian_flow(x, 80.0, 0.02)).abs().max().item())
    slope = math.log2(errors[0] / errors[-1]) / 2
    assert abs(slope - order) < 0.25, f"{name} {arguments}: slope {slope:.2f}, errors {errors}"


def test_every_sampler_of_ours_has_its_order_measured() -> None:
    ours = {name for name in EVERY if samplers.REGISTRY.factory(name).__module__ == samplers.__name__}
    assert ours == {name for name, _, _ in ORDERS}


# Agreement with independent implementations


@pytest.fixture(scope="module")
def k_sampling() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("k_diffusion.sampling")


@pytest.mark.parametrize(
    ("name", "arguments", "theirs", "their_arguments"),
    [
        ("euler", {}, "sample_euler", {}),
        ("heun", {}, "sample_heun", {}),
        ("dpmpp_2m", {}, "sample_dpmpp_2m", {}),
        ("deis", {"order": 1, "variable": "rho"}, "sample_lms", {"order": 1}),
        ("deis", {"order": 2, "variable": "rho"}, "sample_lms", {"order": 2}),
        ("deis", {"order": 3, "variable": "rho"}, "sample_lms", {"order": 3}),
    ],
)
@pytest.mark.parametrize("rho", [3.0, 7.0])
def test_agrees_with_k_diffusion(
    k_sampling: ModuleType,
    name: str,
    arguments: dict[str, Any],
    theirs: str,
    their_arguments: dict[str, Any],
    rho: float,
) -> None:
    """At every level of the grid. sample_lms extrapolates to 0 too, where ours returns the denoised: left out there."""
    sigmas, x = karras(14, 0.02, 80.0, rho, dtype=torch.float64), noise(5, 3)
    ours: list[SamplerState] = []
    images = samplers.create(name, **arguments)(mixture, x, sigmas, callback=ours.append)
    before: list[Tensor] = []
    expected = getattr(k_sampling, theirs)(
        mixture, x, sigmas, disable=True, callback=lambda info: before.append(info["x"]), **their_arguments
    )
    tolerance = 1e-9 if theirs == "sample_lms" else 1e-10  # their coefficients come from an adaptive quadrature
    for state, their_x in zip(ours[:-1], before[1:], strict=True):
        torch.testing.assert_close(state.x, their_x, rtol=tolerance, atol=tolerance)
    if theirs != "sample_lms":
        torch.testing.assert_close(images, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "churn", [{"s_churn": 40.0}, {"s_churn": 3.0, "s_noise": 1.007}, {"s_churn": 9.0, "s_tmin": 0.5}]
)
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_churn_agrees_with_k_diffusion(
    k_sampling: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, churn: dict[str, float]
) -> None:
    """With the same draws: k-diffusion draws at every step, ours where there is churn, so churn must come first."""
    sigmas, x = karras(14, 0.02, 80.0, dtype=torch.float64), noise(5, 3)
    images = samplers.create(name, **churn)(mixture, x, sigmas, generator=torch.Generator().manual_seed(4))
    draws = torch.Generator().manual_seed(4)
    monkeypatch.setattr(k_sampling.torch, "randn_like", lambda like: randn(like.shape, draws, dtype=like.dtype))
    expected = getattr(k_sampling, f"sample_{name}")(mixture, x, sigmas, disable=True, **churn)
    torch.testing.assert_close(images, expected, rtol=1e-10, atol=1e-10)
    assert (images - samplers.create(name)(mixture, x, sigmas)).abs().max() > 0.01, "the churn did nothing"


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("num_steps", [15, 24])
def test_deis_agrees_with_diffusers(order: int, num_steps: int) -> None:
    """On the scheduler's own grid, in VP coordinates there: x_vp = x / sqrt(1 + sigma^2), and its model says eps."""
    scheduler = importlib.import_module("diffusers").DEISMultistepScheduler(solver_order=order)
    scheduler.set_timesteps(num_steps)
    grid = scheduler.sigmas.double()
    x = noise(5, 3, scale=grid[0].item())
    states: list[SamplerState] = []
    samplers.deis(order)(mixture, x, torch.cat([grid, grid.new_zeros(1)]), callback=states.append)
    x_vp = x / (1 + grid[0] ** 2).sqrt()
    for state, t, sigma, sigma_next in zip(states, scheduler.timesteps, grid[:-1], grid[1:], strict=False):
        x_ve = x_vp * (1 + sigma**2).sqrt()
        eps = (x_ve - mixture(x_ve, sigma.expand(5))) / sigma
        x_vp = scheduler.step(eps, t, x_vp).prev_sample
        torch.testing.assert_close(state.x / (1 + sigma_next**2).sqrt(), x_vp, rtol=1e-4, atol=1e-4)
    assert len(states) == num_steps + 1


# Behaviour


def test_each_evaluation_gets_its_own_sigma() -> None:
    """The expert is chosen by the sigma of the evaluation: Kutta's middle stage lies between two grid points."""
    sigmas = karras(4, 0.5, 80.0, dtype=torch.float64)
    grid = sigmas.tolist()
    ends = [[a, b] for a, b in pairwise(grid[:-1])]
    expected = {
        "euler": grid[:-1],
        "deis": grid[:-1],
        "dpmpp_2m": grid[:-1],
        "exp_ab": grid[:-1],
        "exp_abm": grid[:-1],
        "heun": [*chain(*ends), grid[-2]],
        "kutta3": [*chain(*([a, (a + b) / 2, b] for a, b in ends)), grid[-2]],
    }
    for name, levels in expected.items():
        denoise, seen = counted(mixture)
        samplers.create(name)(denoise, noise(2, 3), sigmas)
        assert seen == levels, name


def test_two_experts_are_routed_inside_a_step() -> None:
    """Experts that switch between two grid points: Kutta's step across the edge must ask both."""
    edge, asked = 3.0, []

    def experts(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append("high" if sigma[0] >= edge else "low")
        return mixture(x, sigma)

    samplers.kutta3()(experts, noise(2, 3), torch.tensor([10.0, 4.0, 1.0, 0.0], dtype=torch.float64))
    assert asked == ["high", "high", "high", "high", "low", "low", "low"]


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_nfe_is_the_number_of_calls(name: str, arguments: dict[str, Any], num_steps: int) -> None:
    denoise, seen = counted(mixture)
    sampler = samplers.create(name, **arguments)
    sampler(denoise, noise(2, 3), karras(num_steps, 0.02, 80.0), generator=torch.Generator())
    assert sampler.nfe(num_steps) == len(seen)


def test_deis_is_of_order_three_in_log_rho_unless_told() -> None:
    assert samplers.deis() == Solver(Deis(order=3, variable="log_rho"))


def test_nfe_formulas() -> None:
    n = 9
    calls = {name: samplers.create(name).nfe(n) for name in ("euler", "heun", "kutta3", *MULTISTEP)}
    assert calls == {"euler": n, "heun": 2 * n - 1, "kutta3": 3 * (n - 1) + 1} | dict.fromkeys(MULTISTEP, n)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_the_input_is_not_written_to_and_a_sampler_keeps_no_state(name: str, arguments: dict[str, Any]) -> None:
    sampler, sigmas, x = samplers.create(name, **arguments), karras(5, 0.02, 10.0), noise(2, 7, dtype=torch.float32)
    before, grid = x.clone(), sigmas.clone()
    first = sampler(gaussian, x, sigmas, generator=Philox(0, [0, 1]))
    assert torch.equal(x, before)
    assert torch.equal(sigmas, grid)
    assert torch.equal(first, sampler(gaussian, x, sigmas, generator=Philox(0, [0, 1])))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """x comes back in its dtype, the network sees that dtype, and the state and sigma never drop below float32."""
    wide = torch.promote_types(dtype, torch.float32)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == dtype
        assert sigma.dtype == wide
        return gaussian(x, sigma)

    x = noise(2, 7).to(dtype)
    states: list[SamplerState] = []
    images = samplers.create(name)(denoise, x, karras(8, 0.02, 80.0), callback=states.append)
    assert images.dtype == states[0].x.dtype == states[0].denoised.dtype == dtype
    exact = samplers.create(name)(gaussian, x.double(), karras(8, 0.02, 80.0))
    tolerance = {torch.float64: 0.0, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(images.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4, 4), (1, 2, 3, 2, 2)])
def test_any_shape(name: str, shape: tuple[int, ...]) -> None:
    denoise, _ = counted(lambda x, sigma: x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2))
    x = noise(*shape)
    images = samplers.create(name)(denoise, x, karras(4, 0.02, 80.0))
    flat = samplers.create(name)(denoise, x.reshape(shape[0], -1), karras(4, 0.02, 80.0))
    assert images.shape == x.shape
    torch.testing.assert_close(images.reshape(shape[0], -1), flat)


@pytest.mark.parametrize("name", EVERY)
def test_the_callback_follows_every_step(name: str) -> None:
    sigmas, states = karras(5, 0.02, 80.0, dtype=torch.float64), list[SamplerState]()
    images = samplers.create(name)(mixture, noise(2, 3), sigmas, callback=states.append)
    assert [state.step for state in states] == [0, 1, 2, 3, 4]
    assert [state.sigma for state in states] == sigmas.tolist()[:-1]
    assert {state.num_steps for state in states} == {5}
    assert torch.equal(states[-1].x, images)


def test_churn_is_limited_to_its_range_and_to_root_two() -> None:
    sigmas = karras(4, 0.5, 80.0, dtype=torch.float64)
    grid = sigmas.tolist()
    denoise, seen = counted(mixture)
    sampler = samplers.euler(s_churn=1e9, s_tmin=grid[2], s_tmax=grid[1])
    sampler(denoise, noise(2, 3), sigmas, generator=torch.Generator())
    assert seen == pytest.approx([grid[0], math.sqrt(2) * grid[1], math.sqrt(2) * grid[2], grid[3]])


def test_churn_lifts_the_noise_to_sigma_hat() -> None:
    """x ~ N(0, sigma^2) before, N(0, sigma_hat^2) after, within five standard errors."""
    x = 2.0 * randn((100_000,), torch.Generator().manual_seed(0))
    x_hat, sigma_hat = Churn(s_churn=3.0)(x, 2.0, 10, noise_like(torch.Generator().manual_seed(1)))
    assert sigma_hat == pytest.approx(2.0 * 1.3)
    assert x_hat.std().item() == pytest.approx(sigma_hat, rel=5 / (2 * 100_000) ** 0.5)


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the type checks of the tests, which would refuse some bad arguments before our own messages can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    "sigmas",
    [
        [80.0, 1.0],
        [1.0, 2.0, 0.0],
        [2.0, 2.0, 0.0],
        [2.0, 1.0, 0.0, 0.0],
        [2.0, 0.0, -1.0],
        [0.0],
        [float("inf"), 1.0, 0.0],
        [float("nan"), 1.0, 0.0],
        [2.0, float("nan"), 0.0],
        [[2.0, 1.0, 0.0]],
        5.0,
    ],
)
@pytest.mark.parametrize("name", EVERY)
def test_a_bad_grid_is_refused(name: str, sigmas: Any) -> None:
    with pytest.raises(ValueError, match="sigmas is"):
        samplers.create(name)(mixture, noise(2, 3), torch.tensor(sigmas))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("deis", {"order": 0}, "order is 0"),
        ("deis", {"order": 4}, "order is 4"),
        ("deis", {"variable": "t"}, "variable is 't'; it must be one of log_rho, rho"),
        ("exp_ab", {"order": 0}, "order is 0; it must be an integer from 1 to 3"),
        ("exp_abm", {"order": 4}, "order is 4"),
        ("exp_ab", {"variable": "rho"}, "variable is 'rho'; it must be one of vp_time, log_sigma"),
        ("exp_abm", {"corrector": False}, "exp_abm takes no argument 'corrector'"),
        ("heun", {"s_churn": -1.0}, "s_churn is -1.0"),
        ("heun", {"s_churn": math.nan}, "s_churn is nan"),
        ("euler", {"s_tmin": -1.0}, "s_tmin is -1.0"),
        ("euler", {"s_tmin": 2.0, "s_tmax": 1.0}, "s_tmax is 1.0; it must be at least s_tmin = 2.0"),
        ("euler", {"s_noise": 0.0}, "s_noise is 0.0"),
        ("kutta3", {"s_churn": 1.0}, "kutta3 takes no argument 's_churn'"),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        samplers.create(name, **arguments)


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_can_name_it_and_its_docstring_has_every_argument(name: str) -> None:
    """`class_path: ediffi.registry.samplers.<name>` under the annotation `Sampler`."""
    factory = samplers.REGISTRY.factory(name)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--sampler", type=Sampler)
    parsed = parser.parse_object({"sampler": {"class_path": f"{factory.__module__}.{name}"}})
    assert parser.instantiate(parsed).sampler == samplers.create(name)
    assert factory.__doc__
    for argument in inspect.signature(factory).parameters:
        assert f"\n{argument}: " in inspect.cleandoc(factory.__doc__).partition("Args:")[2].replace("    ", "")
