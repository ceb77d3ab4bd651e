"""A request is checked before its job waits, stored in the image, and read back from it."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.style import Style
from ediffi.studio.canvas import PALETTE, Brush, CanvasLayout
from ediffi.studio.request import GenerationRequest


def test_the_default_is_the_model_s_own_plan(cascade: Cascade) -> None:
    default = GenerationRequest.default(cascade, "a red circle")
    plan = cascade.plan()
    expected = [dataclasses.replace(plan[0], paint_weight=default.paint_weight), *plan[1:]]
    assert cascade.plan(default.options()) == expected
    assert default.paint_weight > 0


def test_a_request_survives_json(wanted: GenerationRequest, drawn: Callable[..., CanvasLayout]) -> None:
    layout = drawn({"red circle": (0, 0, 30, 30)})
    texts = {"negative_prompt": "blue", "sampler": "heun", "style": "0123456789abcdef"}
    full = dataclasses.replace(wanted, num_images=2, style_scale=0.5, layout=layout, **texts)
    assert GenerationRequest.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", None, "'Seed' must be a whole number from 0 to 4294967295, and it is empty"),
        ("seed", -1, "got -1"),
        ("seed", 1.5, r"got 1\.5"),
        ("seed", float("inf"), "got inf"),
        ("first_index", -1, "'First number' must be a whole number from 1 to 4294967296, got 0"),
        ("num_images", 5, "'Images' .* from 1 to 4, got 5"),
        ("num_inference_steps", [3, None, 1], "'steps of stage 2' .* from 1 to 500, and it is empty"),
        ("guidance_scale", -0.5, "'Guidance' .* at least 0, got -0.5"),
        ("paint_weight", float("nan"), "'Paint weight' .* got nan"),
        ("style_scale", "much", "'Style scale' .* got 'much'"),
    ],
)
def test_a_wrong_number_is_named(wanted: GenerationRequest, field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationRequest.from_json({**wanted.to_json(), field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "x" * 6000}, "at most 5000"),
        ({"negative_prompt": "x" * 6000}, "at most 5000"),
        ({"layout": CanvasLayout((Brush("green star", PALETTE[0]),))}, "'green star' is not in the prompt"),
        ({"layout": CanvasLayout((Brush("red circle", PALETTE[0], occurrence=2),))}, "2"),
        ({"sampler": "hoin"}, "heun"),
        ({"num_inference_steps": (3, 2)}, "num_inference_steps has 2 values"),
    ],
)
def test_an_impossible_request_is_refused(
    wanted: GenerationRequest, cascade: Cascade, changes: dict[str, Any], message: str
) -> None:
    wanted.check(cascade)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(wanted, **changes).check(cascade)


def test_a_layout_needs_a_paint_weight(
    wanted: GenerationRequest, cascade: Cascade, drawn: Callable[..., CanvasLayout]
) -> None:
    request = dataclasses.replace(wanted, layout=drawn({"red circle": (0, 0, 9, 9)}), paint_weight=0.0)
    with pytest.raises(ValueError, match="paint weight is 0"):
        request.check(cascade)


def test_the_options_are_those_of_the_request(wanted: GenerationRequest, drawn: Callable[..., CanvasLayout]) -> None:
    style = Style(Image.new("RGB", (8, 8)), 2.0)
    options = dataclasses.replace(wanted, layout=drawn({"red circle": (0, 0, 30, 30)})).options(style)
    assert options.style is style
    assert [region.phrase for region in options.paint] == ["red circle"]
    assert (options.negative_prompt, options.sampler, options.seed) == (None, None, 5)
    assert tuple(options.num_inference_steps) == (3, 2, 1)
