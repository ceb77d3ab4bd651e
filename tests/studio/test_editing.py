"""An image is changed, repainted where it is marked, or enlarged: the images of `ediffi edit` and `ediffi upscale`."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ediffi.diffusion.editing import Edit
from ediffi.io.images import open_image
from ediffi.pipeline.options import SamplingOptions
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import mask_at
from ediffi.studio.jobs import Finished, StepDone
from ediffi.studio.progress import JobProgress
from ediffi.studio.request import GenerationRequest
from ediffi.studio.restoring import restored
from tests.studio.conftest import url


@pytest.fixture
def picture() -> Image.Image:
    image = Image.new("RGB", (256, 256), "pink")
    ImageDraw.Draw(image).ellipse((40, 40, 140, 140), "red")
    return image


@pytest.fixture
def marked() -> str:
    """The left half, marked at the size of the page's canvas."""
    mask = Image.new("RGBA", (512, 512))
    ImageDraw.Draw(mask).rectangle((0, 0, 255, 511), (255, 45, 155, 255))
    return url(mask)


def made(backend: Backend, request: GenerationRequest) -> tuple[Image.Image, list[StepDone]]:
    *events, last = backend.generate("a", request)
    assert isinstance(last, Finished)
    return open_image(backend.gallery.folder / last.result[0]), [e for e in events if isinstance(e, StepDone)]


def test_a_marked_image_is_that_of_the_command(
    backend: Backend, wanted: GenerationRequest, picture: Image.Image, marked: str
) -> None:
    name = backend.gallery.add_source(picture)
    request = dataclasses.replace(wanted, task="edit", source=name, mask=marked, strength=0.7)
    image, _ = made(backend, request)
    mask = Image.new("L", (256, 256))
    mask.paste(255, (0, 0, 128, 256))
    options = SamplingOptions(
        edit=Edit(picture, 0.7, mask),
        seed=wanted.seed,
        num_inference_steps=wanted.num_inference_steps,
        guidance_scale=wanted.guidance_scale,
    )
    expected = backend.cascade.generate(wanted.prompt, options).images[0]
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert np.array_equal(np.asarray(image)[:, 128:], np.asarray(picture)[:, 128:])  # what is not marked is kept
    (again,) = backend.gallery.images()
    assert restored(again.settings, backend.cascade, backend.gallery).request == request


def test_an_enlarged_image_is_that_of_the_command(
    backend: Backend, wanted: GenerationRequest, picture: Image.Image
) -> None:
    small = picture.resize((64, 64), Image.Resampling.BOX)
    request = dataclasses.replace(wanted, task="upscale", source=backend.gallery.add_source(small))
    image, steps = made(backend, request)
    options = SamplingOptions(low_res=small, seed=wanted.seed, num_inference_steps=wanted.num_inference_steps)
    expected = backend.cascade.generate(wanted.prompt, options).images[0]
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert {step.stage for step in steps} == {"sr256"}
    assert backend.strengths(request) == [0, 0, 1]
    chosen = dataclasses.replace(request, first_stage="sr64")
    assert backend.strengths(chosen) == [0, 1, 1]
    image, _ = made(backend, chosen)
    expected = backend.cascade.generate(wanted.prompt, dataclasses.replace(options, first_stage="sr64")).images[0]
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_progress_counts_the_steps_that_run(backend: Backend, wanted: GenerationRequest, picture: Image.Image) -> None:
    request = dataclasses.replace(wanted, num_inference_steps=(10, 4, 1), task="edit", strength=0.5)
    request = dataclasses.replace(request, source=backend.gallery.add_source(picture))
    _, steps = made(backend, request)
    plan = backend.cascade.plan(request.options())
    progress = JobProgress(backend.cascade, plan, backend.step_times, strengths=backend.strengths(request))
    assert [chart.num_steps for chart in progress.charts.values()] == [5, 2, 1]
    for step in steps:
        progress.update(step)
    assert progress.share == 1
    assert "does not run" in JobProgress(backend.cascade, plan, backend.step_times, strengths=[0, 1, 1]).stages()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "edit"}, "there is no image to change"),
        ({"task": "upscale"}, "there is no image to enlarge"),
        ({"task": "edit", "source": "../secret"}, "16 hexadecimal digits"),
        ({"task": "edit", "source": "0" * 16}, "0000"),
    ],
)
def test_a_missing_source_is_told(
    backend: Backend, wanted: GenerationRequest, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        backend.generate("a", dataclasses.replace(wanted, **changes))
    with pytest.raises(ValueError, match="the task must be one of sample, edit, upscale, got 'paint'"):
        GenerationRequest.from_json({**wanted.to_json(), "task": "paint"})


def test_a_mask_is_its_opacity_at_the_size_of_the_image(marked: str) -> None:
    mask = mask_at(marked, 64)
    assert mask is not None
    levels = np.asarray(mask)
    assert (levels[:, :32] == 255).all()
    assert not levels[:, 32:].any()
    assert mask_at("", 64) is None
