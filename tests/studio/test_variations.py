"""Variations of one image, grids of settings, and what they are checked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi.io.images import open_image
from ediffi.pipeline.cascade import Cascade
from ediffi.registry.random import Philox
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import CanvasLayout
from ediffi.studio.grid import grid_requests
from ediffi.studio.jobs import Finished
from ediffi.studio.request import LABELS, GenerationRequest
from ediffi.studio.variations import varied_noise


def made(backend: Backend, request: GenerationRequest) -> list[np.ndarray]:
    *_, last = backend.generate("a", request)
    assert isinstance(last, Finished)
    return [np.asarray(open_image(backend.gallery.folder / name), int) for name in last.result]


def test_the_noise_goes_from_that_of_the_image_to_another(cascade: Cascade) -> None:
    stage, numbers = cascade.stages[0], range(5, 300)
    own = stage.start_noise(Philox(9, [2]))
    kept, half, new = (varied_noise(stage, 9, 2, numbers, amount) for amount in (0.0, 0.5, 1.0))
    assert torch.equal(kept, own.expand_as(kept))
    near = torch.nn.functional.cosine_similarity(half.flatten(1), own.flatten(1))
    assert near.mean() == pytest.approx(2**-0.5, abs=0.01)  # at half of the way, 45 degrees
    assert abs(torch.nn.functional.cosine_similarity(new.flatten(1), own.flatten(1)).mean()) < 0.01
    for noise in (half - half.mean(0), new):
        assert noise.std(0).mean() == pytest.approx(1 if noise is new else 2**-0.5, abs=0.03)
    assert half.square().mean() == pytest.approx(1, abs=0.03)  # standard normal again


def test_variations_are_near_their_image_and_made_again_alone(backend: Backend, wanted: GenerationRequest) -> None:
    (image,) = made(backend, wanted)
    varied = dataclasses.replace(wanted, variation=0.2, variation_of=0, first_index=1, num_images=3)
    others = made(backend, dataclasses.replace(wanted, first_index=1, num_images=3))
    near = made(backend, varied)
    for variation, other in zip(near, others, strict=True):
        assert 0 < np.abs(variation - image).mean() < np.abs(other - image).mean()
    assert not np.array_equal(near[0], near[1])
    (again,) = made(backend, dataclasses.replace(varied, first_index=2, num_images=1))
    assert np.abs(again - near[1]).max() <= 1
    assert GenerationRequest.from_json(varied.to_json()) == varied


def test_a_variation_of_an_enlarged_image_starts_at_its_stage(backend: Backend, wanted: GenerationRequest) -> None:
    source = backend.gallery.add_source(Image.effect_noise((64, 64), 80).convert("RGB"))
    request = dataclasses.replace(wanted, task="upscale", source=source)
    (image,), (other,) = made(backend, request), made(backend, dataclasses.replace(request, variation=0.5))
    assert not np.array_equal(image, other)


def test_the_attention_of_a_variation_is_shown(backend: Backend, wanted: GenerationRequest) -> None:
    *_, last = backend.generate("a", dataclasses.replace(wanted, variation=0.3, num_images=2))
    assert isinstance(last, Finished)
    *_, seen = backend.attention("a", last.result[1])
    assert isinstance(seen, Finished)


def test_a_grid_has_a_request_for_each_pair(wanted: GenerationRequest, drawn: Callable[..., CanvasLayout]) -> None:
    painted = dataclasses.replace(wanted, layout=drawn({"red circle": (0, 0, 30, 30)}), num_images=3)
    rows = grid_requests(painted, "1, 3;6", "0, .5")
    assert [[(r.paint_weight, r.guidance_scale) for r in row] for row in rows] == [
        [(0, 1), (0, 3), (0, 6)],
        [(0.5, 1), (0.5, 3), (0.5, 6)],
    ]
    assert all(request.num_images == 1 for row in rows for request in row)
    assert [row[0].layout == painted.layout for row in rows] == [False, True]  # a weight of 0 is no layout


@pytest.mark.parametrize(
    ("guidance", "paint", "message"),
    [
        ("1, x", "1", "Guidance of the grid must be 1 to 6 numbers of at least 0, as in 1, 3, 6; got '1, x'"),
        ("", "1", "Guidance of the grid"),
        ("1", "-1", "Paint weight of the grid"),
        ("nan", "1", "Guidance of the grid"),
        ("1,2,3,4,5,6,7", "1", "1 to 6 numbers"),
        ("1", "1, 2", "nothing is painted, so the paint weight changes nothing"),
    ],
)
def test_a_wrong_axis_is_told(wanted: GenerationRequest, guidance: str, paint: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_requests(wanted, guidance, paint)


@pytest.mark.parametrize(("field", "value"), [("variation", 1.5), ("strength", 2.0), ("variation", float("nan"))])
def test_a_share_is_at_most_1(wanted: GenerationRequest, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"'{LABELS[field]}' must be a number from 0 to 1"):
        GenerationRequest.from_json({**wanted.to_json(), field: value})
