"""An order is checked before anybody waits, kept in the picture, and read back from it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ediffi.cli import main
from ediffi.io.png import settings_of
from ediffi.pipeline.painter import Painter
from ediffi.studio.canvas import PALETTE, Brush, Layout
from ediffi.studio.order import Order, lost, order_of, sampler_names
from ediffi.studio.shelf import Shelf


def test_usual_is_the_model_s_own_plan(painter: Painter) -> None:
    usual = Order.usual(painter.cascade, "a red circle")
    plan = painter.cascade.plan()
    assert usual.plan(painter.cascade) == [dataclasses.replace(plan[0], paint_weight=usual.paint_weight), *plan[1:]]
    assert usual.paint_weight > 0


def test_it_goes_through_json_and_back(order: Order, drawn: Callable[..., Layout]) -> None:
    full = dataclasses.replace(
        order, negative_prompt="blue", num_images=2, sampler="heun", style="0123456789abcdef", style_scale=0.5
    )
    full = dataclasses.replace(full, layout=drawn({"red circle": (0, 0, 30, 30)}))
    assert Order.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("seed", None, "seed must be a whole number from 0 to 4294967295, got nothing"),
        ("seed", -1, "got -1"),
        ("seed", 1.5, "got 1.5"),
        ("num_images", 5, "num_images must be a whole number from 1 to 4, got 5"),
        (
            "num_inference_steps",
            [3, None, 1],
            "num_inference_steps of stage 2 must be a whole number from 1 to 500, got",
        ),
        ("guidance_scale", -0.5, "guidance_scale must be a number from 0, got -0.5"),
        ("paint_weight", float("nan"), "paint_weight must be a number from 0, got nan"),
        ("style_scale", "much", "style_scale must be a number from 0, got 'much'"),
    ],
)
def test_a_wrong_field_is_named(order: Order, field: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Order.from_json({**order.to_json(), field: value})


def test_what_cannot_be_painted_is_refused_at_once(
    order: Order, painter: Painter, drawn: Callable[..., Layout]
) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            dataclasses.replace(order, **changes).check(painter.cascade)
        return str(error.value)

    assert "the prompt is empty" in refused(prompt=" ")
    assert "the prompt has 6000 characters; at most 5000 are allowed" in refused(prompt="x" * 6000)
    assert "at most 5000" in refused(negative_prompt="x" * 6000)
    unpainted = Layout((Brush("green star", PALETTE[0]),))
    assert "the phrase 'green star' is not in the prompt 'a red circle" in refused(layout=unpainted)
    twice = Layout((Brush("red circle", PALETTE[0], occurrence=2),))
    assert "there is no 2" in refused(layout=twice)
    assert "paint weight is 0" in refused(layout=drawn({"red circle": (0, 0, 9, 9)}), paint_weight=0.0)
    assert "did you mean heun" in refused(sampler="hoin")
    assert "num_inference_steps has 2 values" in refused(num_inference_steps=(3, 2))
    order.check(painter.cascade)


def test_the_options_are_those_of_the_cascade(order: Order, shelf: Shelf, drawn: Callable[..., Layout]) -> None:
    name = shelf.keep_style(Image.new("RGB", (8, 8), "blue"))
    layout = drawn({"red circle": (0, 0, 30, 30)})
    options = dataclasses.replace(order, style=name, style_scale=2.0, layout=layout).options(shelf)
    assert options["style"].scale == 2
    assert options["style"].image.size == (8, 8)
    assert [region.phrase for region in options["paint"]] == ["red circle"]
    assert options["negative_prompt"] is None
    shelf.style(name).unlink()
    with pytest.raises(FileNotFoundError):
        dataclasses.replace(order, style=name).options(shelf)


def test_a_picture_of_the_command_line_gives_its_order_back(painter: Painter, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    steps = ["--num-inference-steps", "[2, 1, 1]", "--guidance-scale", "2"]
    assert main(["sample", "a red circle", "--seed", "9", "--negative-prompt", "blue", *steps, "-o", str(output)]) == 0
    settings = settings_of(output)
    order = order_of(settings, painter.cascade)
    assert (order.prompt, order.seed, order.negative_prompt) == ("a red circle", 9, "blue")
    assert (order.num_inference_steps, order.guidance_scale) == ((2, 1, 1), 2.0)
    assert lost(settings) == []
    assert lost({**settings, "paint": [], "style": {}}) == ["paint", "style"]
    assert lost({**settings, "paint": [], "order": {}}) == []


def test_samplers_and_presets_can_be_chosen(painter: Painter) -> None:
    assert {"euler", "kutta3", "paper-steps", "paper-nfe"} <= set(sampler_names())
    for name in sampler_names():
        painter.cascade.plan(sampler=name)
