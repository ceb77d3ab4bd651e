"""The page shows which expert runs, how far a job is, and how long it will take."""

import dataclasses
import math

import pytest
from PIL import Image

from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.stage import Sampling
from ediffi.studio.jobs import StepDone, Waiting
from ediffi.studio.progress import JobProgress, NoiseChart, StepTimes
from ediffi.studio.request import GenerationRequest


def step(stage: str = "base", number: int = 1, of: int = 3, sigma: float = 1.0, images: int = 1) -> StepDone:
    return StepDone(stage, number, of, sigma, tuple(Image.new("RGB", (16, 16)) for _ in range(images)))


def test_the_bands_partition_the_chart_as_the_experts_do(cascade: Cascade) -> None:
    stage = cascade.stages[1]
    chart = NoiseChart(stage, stage.sampling)
    assert len(chart.bands) == len(stage.denoiser.experts) == 2
    assert (chart.bands[0].left, chart.bands[-1].right) == (0, 1)
    assert chart.bands[0].right == chart.bands[1].left
    for sigma in chart.sigmas:
        band = next(band for band in reversed(chart.bands) if band.left <= chart.position(sigma))
        assert band.index == chart.expert_at(sigma)


def test_positions_run_from_the_noisiest_to_the_cleanest(cascade: Cascade) -> None:
    chart = NoiseChart(cascade.stages[0], Sampling(sigma_max=10.0, sigma_min=0.1))
    assert [chart.position(sigma) for sigma in (10.0, 1.0, 0.1)] == pytest.approx([0, 0.5, 1])
    assert [chart.position(sigma) for sigma in (math.inf, 99.0, 0.0)] == [0, 0, 1]


def test_a_single_step_shows_the_expert_of_its_noise(cascade: Cascade) -> None:
    stage = cascade.stages[1]
    chart = NoiseChart(stage, dataclasses.replace(stage.sampling, num_inference_steps=1))
    assert [band.index for band in chart.bands] == [chart.expert_at(chart.sigmas[0])]


def test_the_running_expert_is_lit(cascade: Cascade) -> None:
    stage = cascade.stages[1]
    chart = NoiseChart(stage, stage.sampling)
    assert "lit" not in chart.card(None, "idle")
    noisy, clean = (chart.card(step("sr64", sigma=sigma), "running") for sigma in (2.0, 0.02))
    assert 'class="expert e1 lit"' in noisy
    assert "expert (1, 1)" in noisy
    assert 'class="expert e0 lit"' in clean
    assert "step 1 of 3" in clean
    assert "lit" not in chart.card(step("sr64"), "done")


def test_the_time_of_a_step_is_learned_within_a_stage() -> None:
    times = StepTimes()
    times.update(step(number=1), step(number=3), 1.0)
    assert times.seconds == {"base": 0.5}
    times.update(step(number=3), step("sr64", number=1), 9.0)
    times.update(step(number=3), step(number=3), 9.0)
    assert times.seconds == {"base": 0.5}
    times.update(step(number=1, images=2), step(number=2, images=2), 3.0)
    assert times.seconds["base"] == pytest.approx(0.7 * 0.5 + 0.3 * 1.5)
    assert times.estimate({"base": 4, "sr64": 0}, 2) == pytest.approx(8 * times.seconds["base"])
    assert times.estimate({"base": 4, "sr64": 1}, 1) is None


def test_the_panel_shows_stage_step_and_time(cascade: Cascade, wanted: GenerationRequest) -> None:
    times = StepTimes()
    plan = cascade.plan(wanted.options())
    progress = JobProgress(cascade, plan, times, notices=["ignored: fluffy"])
    assert "reading the prompt" in progress.panel()
    progress.update(Waiting(2))
    assert "waiting for 2 earlier jobs" in progress.panel()
    progress.update(step(number=1))
    progress.update(step(number=2))
    for text in ("base: step 2 of 3, σ 1", "left in base", "ignored: fluffy"):
        assert text in progress.panel()
    assert progress.share == pytest.approx(2 / 6)
    assert progress.stages().count('class="stage running"') == 1
    times.seconds = {"base": 1.0, "sr64": 2.0, "sr256": 30.0}
    assert "35 s left" in progress.panel()
    progress.update(step("sr64", number=2, of=2))
    assert progress.stages(over=True).count('class="stage done"') == 2
