"""Grids: EDM's equation 5, the one in VP time, and the paper's presets."""

import importlib
import math
import warnings
from collections.abc import Iterator
from itertools import pairwise

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ediffi.registry import samplers
from ediffi.registry.core import UnknownNameError
from ediffi.registry.samplers.presets import PRESETS, StageKind, preset
from ediffi.registry.samplers.schedules import GRIDS, Grid, karras, vp_time


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["karras", "vp_time"]),
    st.integers(1, 60),
    st.floats(1e-4, 1.0),
    st.floats(1.5, 200.0),
    st.floats(0.5, 12.0),
)
def test_a_grid_decreases_from_sigma_max_through_sigma_min_to_zero(
    grid: Grid, n: int, low: float, high: float, rho: float
) -> None:
    sigmas = GRIDS[grid](n, low, high, rho, dtype=torch.float64).tolist()
    assert len(sigmas) == n + 1
    assert sigmas[0] == high
    assert sigmas[-1] == 0
    assert n == 1 or sigmas[-2] == low
    assert all(a > b for a, b in pairwise(sigmas))


@pytest.mark.parametrize("rho", [1.0, 3.0])
def test_the_grid_in_vp_time_is_uniform_in_a_root_of_it(rho: float) -> None:
    sigmas = vp_time(9, 0.02, 80.0, rho, dtype=torch.float64)[:-1]
    times = [(-0.1 + math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + sigma**2))) / 19.9 for sigma in sigmas.tolist()]
    steps = torch.tensor(times, dtype=torch.float64).pow(1 / rho).diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-9, atol=0)


@pytest.mark.parametrize("grid", list(GRIDS))
def test_one_step_is_the_whole_way(grid: Grid) -> None:
    assert GRIDS[grid](1, 0.002, 80.0).tolist() == [80.0, 0.0]


@pytest.mark.parametrize("grid", list(GRIDS))
def test_float32_is_the_default(grid: Grid) -> None:
    assert GRIDS[grid](3, 0.002, 80.0).dtype == torch.float32


@pytest.mark.parametrize(("n", "rho"), [(2, 7.0), (18, 7.0), (40, 3.0)])
def test_agrees_with_k_diffusion(n: int, rho: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampling = importlib.import_module("k_diffusion.sampling")
    theirs = sampling.get_sigmas_karras(n, 0.002, 80.0, rho)
    torch.testing.assert_close(karras(n, 0.002, 80.0, rho), theirs, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.002, 80.0), "num_steps is 0"),
        ((-3, 0.002, 80.0), "num_steps is -3"),
        ((5, 0.0, 80.0), "sigma_min is 0.0"),
        ((5, -1.0, 80.0), "sigma_min is -1.0"),
        ((5, float("nan"), 80.0), "sigma_min is nan"),
        ((5, 2.0, 2.0), "sigma_max is 2.0"),
        ((5, 2.0, 1.0), "sigma_max is 1.0"),
        ((5, 2.0, float("inf")), "sigma_max is inf"),
        ((5, 0.002, 80.0, 0.0), "rho is 0.0"),
        ((5, 0.002, 80.0, -7.0), "rho is -7.0"),
    ],
)
@pytest.mark.parametrize("grid", list(GRIDS))
def test_bad_arguments(grid: Grid, arguments: tuple[int, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRIDS[grid](*arguments)


@pytest.mark.parametrize(
    ("name", "kind", "nfe", "rho"),
    [
        ("paper-steps", "base", 76, 6.0),
        ("paper-steps", "super_resolution", 31, 3.0),
        ("paper-nfe", "base", 25, 6.0),
        ("paper-nfe", "super_resolution", 10, 3.0),
    ],
)
def test_the_paper_in_network_calls(name: str, kind: StageKind, nfe: int, rho: float) -> None:
    chosen = preset(name, kind)
    calls = 0

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x * 0

    sampler = samplers.create(chosen.sampler, **chosen.arguments)
    sampler(denoise, torch.ones(1, 2), GRIDS[chosen.grid](chosen.num_steps, 0.002, 80.0, chosen.rho))
    assert calls == sampler.nfe(chosen.num_steps) == nfe
    assert (chosen.sampler, chosen.rho) == ("kutta3", rho)


def test_every_preset_serves_both_kinds_of_stage() -> None:
    assert all(set(kinds) == {"base", "super_resolution"} for kinds in PRESETS.values())


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the type checks of the tests, which would refuse some bad arguments before our own messages can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run_it")
def test_unknown_names_list_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean paper-steps"):
        preset("paper-step", "base")
    with pytest.raises(UnknownNameError, match="known: paper-nfe, paper-steps"):
        preset("zzz", "base")
    with pytest.raises(UnknownNameError, match="did you mean super_resolution"):
        preset("paper-nfe", "superresolution")  # type: ignore[arg-type]
