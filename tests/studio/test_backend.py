"""The backend generates the images of the cascade itself, and records the attention of the very image."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ediffi.cli import main
from ediffi.io.images import open_image
from ediffi.studio.attention_view import PERIODS, AttentionView
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import PALETTE, Brush, CanvasLayout
from ediffi.studio.jobs import Finished, JobEvent, StepDone, Stopped, Waiting
from ediffi.studio.request import GenerationRequest
from ediffi.studio.restoring import restored
from tests.studio.conftest import PROMPT

Draw = Callable[..., CanvasLayout]


def result(events: Iterator[JobEvent]) -> Any:
    (*_, last) = events
    assert isinstance(last, Finished)
    return last.result


def pixels(backend: Backend, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(open_image(backend.gallery.folder / name, exif=True))


def test_the_images_and_previews_are_those_of_the_cascade(backend: Backend, wanted: GenerationRequest) -> None:
    *reported, last = backend.generate("a", dataclasses.replace(wanted, num_images=2))
    assert isinstance(last, Finished)
    expected = backend.cascade(PROMPT, seed=5, num_images_per_prompt=2, num_inference_steps=[3, 2, 1]).images
    for name, image in zip(last.result, expected, strict=True):
        assert np.array_equal(pixels(backend, name), image)
    settings = backend.gallery.image(last.result[1]).settings
    assert (settings["seed"], settings["index"], settings["prompt"]) == (5, 1, PROMPT)
    steps = [event for event in reported if isinstance(event, StepDone)]
    assert {step.stage: step.images[0].size for step in steps} == {
        "base": (16, 16),
        "sr64": (64, 64),
        "sr256": (256, 256),
    }
    ends = [(step.stage, step.step) for step in steps if step.step == step.num_steps]
    assert ends == [("base", 3), ("sr64", 2), ("sr256", 1)]


def test_a_stored_request_gives_the_same_image(backend: Backend, wanted: GenerationRequest, drawn: Draw) -> None:
    style = backend.gallery.add_style(Image.effect_noise((64, 64), 90).convert("RGB"))
    layout = drawn({"red circle": (0, 20, 25, 60), "blue square": (35, 5, 60, 30)})
    full = dataclasses.replace(wanted, layout=layout, style=style, style_scale=1.5, negative_prompt="a green cross")
    (first,) = result(backend.generate("a", full))
    stored = restored(backend.gallery.image(first).settings, backend.cascade, backend.gallery).request
    assert stored == full
    (second,) = result(backend.generate("a", stored))
    assert np.array_equal(pixels(backend, first), pixels(backend, second))
    (plain,) = result(backend.generate("a", wanted))
    assert not np.array_equal(pixels(backend, first), pixels(backend, plain))


def test_closing_stops_all_jobs(backend: Backend, wanted: GenerationRequest) -> None:
    long = dataclasses.replace(wanted, num_inference_steps=(500, 2, 1))
    first, second = backend.generate("a", long), backend.generate("b", long)
    assert isinstance(next(first), StepDone)
    assert next(second) == Waiting(1)
    backend.jobs.stop("c")
    assert isinstance(next(first), StepDone)
    backend.jobs.stop("b")
    with pytest.raises(Stopped):
        next(second)
    backend.close()
    assert backend.jobs.wait_until_idle(0)
    with pytest.raises(Stopped):
        list(first)
    assert backend.gallery.images() == []


def test_a_request_is_checked_before_it_waits(backend: Backend, wanted: GenerationRequest) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        backend.generate("a", dataclasses.replace(wanted, prompt=""))
    with pytest.raises(FileNotFoundError):
        backend.generate("a", dataclasses.replace(wanted, style="0" * 16))
    assert backend.jobs.wait_until_idle(0)


def test_parts_without_effect_are_named(backend: Backend, wanted: GenerationRequest, drawn: Draw) -> None:
    assert backend.notices(wanted) == []
    brushes = (*drawn({"red circle": (0, 0, 9, 9)}).brushes, Brush("blue square", PALETTE[1]))
    layout = CanvasLayout(brushes, drawn({"red circle": (0, 0, 9, 9)}).image)
    notices = backend.notices(dataclasses.replace(wanted, prompt="a fluffy " + PROMPT, layout=layout))
    assert "fluffy" in notices[0]
    assert notices[-1] == "no region is drawn for 'blue square'"
    assert backend.notices(dataclasses.replace(wanted, prompt=", ".join([PROMPT] * 20)))


def test_the_attention_of_an_image_follows_its_layout(backend: Backend, wanted: GenerationRequest, drawn: Draw) -> None:
    layout = drawn({"red circle": (0, 0, 20, 63), "blue square": (44, 0, 63, 63)})
    request = dataclasses.replace(wanted, layout=layout, paint_weight=5.0, num_images=2, negative_prompt="a cross")
    *reported, last = backend.generate("a", request)
    assert isinstance(last, Finished)
    base = [event for event in reported if isinstance(event, StepDone) and event.stage == "base"][-1]
    *watched, seen = backend.attention("a", last.result[1])
    step = watched[-1]
    assert isinstance(step, StepDone)
    assert np.abs(np.asarray(base.images[1], int) - np.asarray(step.images[0], int)).max() <= 1  # the same image

    assert isinstance(seen, Finished)
    view = seen.result
    assert isinstance(view, AttentionView)
    assert [word.text for word in view.words] == list(dict.fromkeys(PROMPT.split()))
    assert all(len(word.tiles) == len(PERIODS) for word in view.words)
    assert 0 < sum(word.share for word in view.words) + view.null <= 1
    heat = {word.text: np.asarray(word.tiles[1].convert("L"), float) for word in view.words}
    difference = heat["circle"] - heat["square"]
    assert difference[:, :30].mean() > 0 > difference[:, -30:].mean()
    assert view.html().count("<figure>") == len(view.words)


def test_images_that_cannot_be_sampled_again_are_named(backend: Backend) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        backend.attention("a", "gone.png")
    settings = {"model": "other", "prompt": "a cat", "seed": 0}
    (other,) = backend.gallery.add([Image.new("RGB", (8, 8))], settings)
    with pytest.raises(ValueError, match="image of 'other'"):
        backend.attention("a", other)
    (edited,) = backend.gallery.add([Image.new("RGB", (8, 8))], {**settings, "model": "toybox", "edit": {}})
    with pytest.raises(ValueError, match="it lacks the image that was changed"):
        backend.attention("a", edited)


def test_an_image_of_the_page_is_made_again_by_the_command_line(
    backend: Backend, wanted: GenerationRequest, drawn: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    style = backend.gallery.add_style(Image.effect_noise((64, 64), 90).convert("RGB"))
    layout = drawn({"red circle": (0, 20, 25, 60), "blue square": (35, 5, 60, 30)})
    request = dataclasses.replace(wanted, layout=layout, style=style)
    (name,) = result(backend.generate("a", request))
    assert main(["inspect", str(backend.gallery.folder / name), "--again"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "every pixel is the same"
