"""What a visitor sees of a run: who owns the noise and runs now, how far it is, how long it takes."""

import dataclasses
import math

import pytest
from PIL import Image

from ediffi.pipeline.painter import Painter
from ediffi.pipeline.stage import Sampling
from ediffi.studio.easel import Easel
from ediffi.studio.order import Order
from ediffi.studio.pace import Pace
from ediffi.studio.run import Step, Waiting
from ediffi.studio.spectrum import Spectrum


def step(stage: str = "base", number: int = 1, of: int = 3, sigma: float = 1.0, images: int = 1) -> Step:
    return Step(stage, number, of, sigma, tuple(Image.new("RGB", (16, 16)) for _ in range(images)))


def test_the_bands_share_the_noise_out_as_the_experts_do(painter: Painter) -> None:
    stage = painter.cascade.stages[1]
    spectrum = Spectrum(stage, stage.sampling)
    assert len(spectrum.bands) == len(stage.denoiser.experts) == 2
    assert spectrum.bands[0].left == 0
    assert spectrum.bands[-1].right == 1
    for one, two in zip(spectrum.bands, spectrum.bands[1:], strict=False):
        assert one.right == two.left
    for sigma in spectrum.sigmas:
        (band,) = [
            b
            for b in spectrum.bands
            if b.left <= spectrum.place(sigma) < b.right or (b.right == 1 and b.left <= spectrum.place(sigma))
        ]
        assert band.index == spectrum.owner(sigma)


def test_places_run_from_the_noisiest_to_the_cleanest(painter: Painter) -> None:
    spectrum = Spectrum(painter.cascade.stages[0], Sampling(sigma_max=10.0, sigma_min=0.1))
    assert spectrum.place(10.0) == 0
    assert spectrum.place(1.0) == pytest.approx(0.5, abs=1e-6)
    assert spectrum.place(0.1) == pytest.approx(1)
    assert (spectrum.place(math.inf), spectrum.place(0.0), spectrum.place(99.0)) == (0, 1, 0)


def test_one_step_shows_the_expert_of_its_noise(painter: Painter) -> None:
    stage = painter.cascade.stages[1]
    spectrum = Spectrum(stage, dataclasses.replace(stage.sampling, num_inference_steps=1))
    assert [band.index for band in spectrum.bands] == [spectrum.owner(spectrum.sigmas[0])]


def test_the_running_expert_is_lit(painter: Painter) -> None:
    stage = painter.cascade.stages[1]
    spectrum = Spectrum(stage, stage.sampling)
    assert "lit" not in spectrum.card(None, "idle")
    noisy, clean = (spectrum.card(step("sr64", sigma=sigma), "running") for sigma in (2.0, 0.02))
    assert 'class="expert e1 lit"' in noisy
    assert "expert (1, 1)" in noisy
    assert 'class="expert e0 lit"' in clean
    assert "step 1 of 3" in clean
    assert "lit" not in spectrum.card(step("sr64"), "done")


def test_the_pace_is_learned_from_steps_of_one_stage() -> None:
    pace = Pace()
    pace.saw(step(number=1), step(number=3), 1.0)
    assert pace.seconds == {"base": 0.5}
    pace.saw(step(number=3), step("sr64", number=1), 9.0)
    pace.saw(step(number=3), step(number=3), 9.0)
    assert pace.seconds == {"base": 0.5}
    pace.saw(step(number=1, images=2), step(number=2, images=2), 3.0)
    assert pace.seconds["base"] == pytest.approx(0.7 * 0.5 + 0.3 * 1.5)
    assert pace.left({"base": 4, "sr64": 0}, 2) == pytest.approx(8 * pace.seconds["base"])
    assert pace.left({"base": 4, "sr64": 1}, 1) is None


def test_the_easel_tells_stage_step_and_time(painter: Painter, order: Order) -> None:
    pace = Pace()
    easel = Easel(painter.cascade, order.plan(painter.cascade), pace, notices=["ignored: fluffy"])
    assert "reading the words" in easel.picture()
    easel.show(Waiting(2))
    assert "waiting: 2 runs before this one" in easel.picture()
    easel.show(step(number=1))
    easel.show(step(number=2))
    assert "base: step 2 of 3, σ 1" in easel.picture()
    assert "left in base" in easel.picture()
    assert "ignored: fluffy" in easel.picture()
    assert easel.share == pytest.approx(2 / 6)
    assert easel.stages().count('class="stage running"') == 1
    pace.seconds = {"base": 1.0, "sr64": 2.0, "sr256": 30.0}
    assert "35 s left" in easel.picture()
    easel.show(step("sr64", number=2, of=2))
    assert easel.stages(over=True).count('class="stage done"') == 2
