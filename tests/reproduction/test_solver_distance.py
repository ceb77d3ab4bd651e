"""Distances of samplers to the end of the ODE: on a Gaussian, whose ODE ends where a formula says."""

import dataclasses
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor

from ediffi.pipeline.stage import Sampling
from ediffi.registry import samplers
from ediffi.registry.core import UnknownNameError
from ediffi.registry.samplers import presets
from ediffi.registry.samplers.presets import Preset
from ediffi.registry.samplers.schedules import GRIDS, karras, vp_time
from reproduction.solver_distance import SolverDistance, fine, solve, solver_distances, within_calls

VARIANCE = 0.3**2
SAMPLING = Sampling(sigma_min=0.01, sigma_max=40.0)
NOISE = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of N(0, VARIANCE)."""
    return x * VARIANCE / (VARIANCE + sigma.view(-1, 1, 1, 1) ** 2)


def end(noise: Tensor) -> Tensor:
    """The exact solution at sigma_min, denoised."""
    shrunk = 40.0 * noise * ((VARIANCE + 0.01**2) / (VARIANCE + 40.0**2)) ** 0.5
    return shrunk * VARIANCE / (VARIANCE + 0.01**2)


@pytest.mark.parametrize("name", samplers.names())
def test_a_fine_solution_is_the_exact_one(name: str) -> None:
    fine = within_calls(dataclasses.replace(SAMPLING, sampler=name), 300)
    tolerance = 0.05 if name == "euler" else 2e-3
    torch.testing.assert_close(solve(gaussian, NOISE, fine), end(NOISE), rtol=0, atol=tolerance)


def test_the_reference_is_nearer_to_the_end_than_the_default_at_as_many_calls() -> None:
    setting = fine(dataclasses.replace(SAMPLING, arguments={"order": 2}, sampler="deis"))
    assert (setting.nfe, setting.sigma_min, setting.sigma_max) == (199, 0.01, 40.0)
    rows = solver_distances(gaussian, NOISE, [setting, within_calls(SAMPLING, 200)], end(NOISE))
    reference, default = (row.typical for row in rows)
    assert reference < default / 3
    assert reference < 1e-5


def test_a_solution_is_at_no_distance_from_itself_and_distances_are_by_picture() -> None:
    reference = solve(gaussian, NOISE, SAMPLING)
    moved = reference + torch.arange(5, dtype=torch.float64).view(-1, 1, 1, 1)
    (still,) = solver_distances(gaussian, NOISE, [SAMPLING], reference)
    (shifted,) = solver_distances(gaussian, NOISE, [SAMPLING], moved)
    assert torch.equal(still.distances, torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(shifted.distances, torch.arange(5, dtype=torch.float64))
    assert still.nfe == shifted.nfe == 20
    assert shifted.sampling == SAMPLING


def test_more_calls_are_nearer_and_settings_come_in_order() -> None:
    settings = [within_calls(SAMPLING, calls) for calls in (10, 20, 40, 80)]
    rows = list(solver_distances(gaussian, NOISE, settings, end(NOISE)))
    assert [row.nfe for row in rows] == [10, 20, 40, 80]
    typical = [row.typical for row in rows]
    assert typical == sorted(typical, reverse=True)
    assert typical[-1] < typical[0] / 20


def test_rows_come_as_they_are_done() -> None:
    calls = []

    def counting(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        return gaussian(x, sigma)

    rows = solver_distances(counting, NOISE, [within_calls(SAMPLING, 3), within_calls(SAMPLING, 4)], end(NOISE))
    assert isinstance(rows, Iterator)
    next(rows)
    assert len(calls) == 3


def test_clipping_leaves_out_what_a_picture_cannot_show() -> None:
    reference = torch.where(end(NOISE) > 0.2, end(NOISE) + 5, end(NOISE))
    (row,) = solver_distances(gaussian, NOISE, [within_calls(SAMPLING, 300)], reference, limit=0.2)
    assert row.distances.max() < 1e-3


def test_the_typical_distance_is_a_geometric_mean() -> None:
    assert SolverDistance(SAMPLING, 1, torch.tensor([0.1, 10.0])).typical == pytest.approx(1.0)


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 10, 25])
@pytest.mark.parametrize("name", samplers.names())
def test_a_budget_is_used_and_not_exceeded(name: str, calls: int) -> None:
    sampling = within_calls(dataclasses.replace(SAMPLING, sampler=name), calls)
    assert sampling.nfe <= calls
    assert dataclasses.replace(sampling, num_inference_steps=sampling.num_inference_steps + 1).nfe > calls


def test_a_dtype_is_kept() -> None:
    assert solve(gaussian, NOISE.float(), SAMPLING).dtype == torch.float32


# The grid of a stage


def test_a_stage_walks_down_the_grid_it_names() -> None:
    sampling = Sampling(num_inference_steps=9, sigma_min=0.02, sigma_max=50.0, rho=3.0, grid="vp_time")
    assert torch.equal(sampling.sigmas(), vp_time(9, 0.02, 50.0, 3.0))
    assert torch.equal(dataclasses.replace(sampling, grid="karras").sigmas(), karras(9, 0.02, 50.0, 3.0))
    assert Sampling().grid == "karras"


def test_a_preset_brings_its_grid_and_a_sampler_keeps_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Preset("exp_abm", 12, 3.0, {"order": 2}, "vp_time")
    monkeypatch.setattr(presets, "PRESETS", {"mine": {"base": chosen, "super_resolution": chosen}})
    monkeypatch.setattr("ediffi.pipeline.stage.PRESETS", presets.PRESETS)
    sampling = SAMPLING.with_sampler("mine", super_resolution=False)
    assert (sampling.sampler, sampling.grid, sampling.rho, sampling.nfe) == ("exp_abm", "vp_time", 3.0, 12)
    assert torch.equal(sampling.sigmas(), vp_time(12, 0.01, 40.0, 3.0))
    assert sampling.with_sampler("heun", super_resolution=False).grid == "vp_time"


# Bad input


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the type checks of the tests, which would refuse some bad arguments before our own messages can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run_it")
def test_an_unknown_grid_lists_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="no grid named 'vp_tim'; did you mean vp_time"):
        Sampling(grid="vp_tim")  # type: ignore[arg-type]
    assert set(GRIDS) == {"karras", "vp_time"}


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="calls must be at least 1"):
        within_calls(SAMPLING, 0)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_reference_of_another_shape_and_settings_of_other_problems_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reference has shape \(2, 3, 4, 4\), noise \(5, 3, 4, 4\)"):
        next(solver_distances(gaussian, NOISE, [SAMPLING], NOISE[:2]))
    with pytest.raises(ValueError, match="they must all have the same ends"):
        next(solver_distances(gaussian, NOISE, [SAMPLING, Sampling()], NOISE))
