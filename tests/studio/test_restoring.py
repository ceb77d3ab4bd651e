"""Images of other commands restore the page: what they were made from, and what the page has no field for."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region
from ediffi.io import png
from ediffi.io.images import open_image
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.style import Style, Switch
from ediffi.studio.backend import Backend
from ediffi.studio.jobs import Finished
from ediffi.studio.restoring import restored

PROMPT = "a red circle and a blue square"
STEPS = (2, 1, 1)


@pytest.fixture
def left() -> torch.Tensor:
    """A soft mask at the size of the page's canvas."""
    mask = torch.zeros(512, 512)
    mask[:, :200] = torch.linspace(40, 255, 200).round() / 255
    return mask


def saved(cascade: Cascade, folder: Path, prompt: Any = PROMPT, **options: Any) -> list[Path]:
    made = cascade.generate(prompt, SamplingOptions(num_inference_steps=STEPS, **options))
    return made.save(folder / "made.png")


def again(backend: Backend, path: Path) -> np.ndarray:
    """The image that the page makes with the settings of a file."""
    found = restored(png.settings_of(path), backend.cascade, backend.gallery, path)
    assert (found.missing, found.notices) == ((), ())
    *_, last = backend.generate("a", found.request)
    assert isinstance(last, Finished)
    return np.asarray(open_image(backend.gallery.folder / last.result[0]))


def test_a_painted_image_with_a_style_is_made_again(backend: Backend, tmp_path: Path, left: torch.Tensor) -> None:
    paint = [Region("red circle", left, 2.0), Region("blue square", left.flip(1), occurrence=1)]
    style = Style(Image.effect_noise((64, 48), 90), 1.5)
    options: dict[str, Any] = {"paint": paint, "style": style, "paint_weight": 3.0, "negative_prompt": "a cross"}
    (path,) = saved(backend.cascade, tmp_path, seed=9, guidance_scale=2.5, sampler="heun", **options)
    assert np.array_equal(again(backend, path), np.asarray(open_image(path)))


def test_a_changed_and_an_enlarged_image_are_made_again(backend: Backend, tmp_path: Path, left: torch.Tensor) -> None:
    image = Image.new("RGB", (256, 256), "pink")
    ImageDraw.Draw(image).ellipse((40, 40, 140, 140), "red")
    edit = Edit(image, 0.6, left[::2, ::2])
    for options in ({"edit": edit}, {"low_res": image.resize((64, 64)), "first_stage": "sr64"}):
        (path,) = saved(backend.cascade, tmp_path, first_index=3, **options)
        request = restored(png.settings_of(path), backend.cascade, backend.gallery, path).request
        assert request.first_index == 3
        assert np.array_equal(again(backend, path), np.asarray(open_image(path)))


def test_each_image_of_a_call_has_its_own_prompt(backend: Backend, tmp_path: Path) -> None:
    prompts = ["a red circle", "a blue square"]
    paths = saved(backend.cascade, tmp_path, prompts, negative_prompt=["a cross", None], num_images_per_prompt=2)
    request = restored(png.settings_of(paths[2]), backend.cascade, backend.gallery, paths[2]).request
    assert (request.prompt, request.negative_prompt, request.first_index) == ("a blue square", "", 2)
    assert request.num_images == 1
    (path, _) = saved(backend.cascade, tmp_path, num_images_per_prompt=2)
    assert restored(png.settings_of(path), backend.cascade, backend.gallery, path).request.num_images == 2


def test_what_the_page_lacks_is_named(backend: Backend, tmp_path: Path, left: torch.Tensor) -> None:
    switch = Switch("a green cross", 0.5)
    options: dict[str, Any] = {"switch": switch, "guidance_interval": (0.5, 10.0), "paint": [Region("red", left)]}
    (path,) = saved(backend.cascade, tmp_path, paint_weight=1.0, **options)
    settings = png.settings_of(path)
    found = restored(settings, backend.cascade, backend.gallery, path)
    assert found.missing == ("the second prompt", "guidance_interval of base")
    assert [region.phrase for region in found.request.regions] == ["red"]
    png.save(open_image(path), path, settings)  # without its inputs
    found = restored(settings, backend.cascade, backend.gallery, path)
    assert found.missing[0] == "the layout"
    assert found.request.prompt == PROMPT
    for old in ({"prompt": PROMPT}, {"prompt": PROMPT, "seed": 4, "negative_prompt": "a cross"}):
        request = restored(old, backend.cascade, backend.gallery).request
        assert (request.prompt, request.seed) == (PROMPT, old.get("seed", 0))


def test_a_request_for_another_model_or_gallery(backend: Backend, wanted: Any) -> None:
    style = backend.gallery.add_style(Image.new("RGB", (8, 8), "green"))
    request = dataclasses.replace(wanted, style=style, first_stage="sr1024")
    (backend.gallery.folder / "styles" / f"{style}.png").unlink()
    found = restored({"order": request.to_json()}, backend.cascade, backend.gallery)
    assert found.missing == ("the style image", "the first stage 'sr1024'")
    assert found.request == wanted
