"""What is painted on the canvas becomes regions, pixel for pixel, and nothing else does."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from ediffi.studio.canvas import HEAD, PALETTE, PHRASES, Brush, Layout, assets
from tests.studio.conftest import url

Draw = Callable[..., Layout]


def test_each_phrase_owns_the_pixels_of_its_colour(drawn: Draw) -> None:
    left, right = drawn({"red circle": (0, 0, 15, 63), "blue square": (32, 8, 63, 31)}).regions
    assert (left.phrase, right.phrase) == ("red circle", "blue square")
    expected = torch.zeros(64, 64)
    expected[:, :16] = 1
    assert torch.equal(left.mask, expected)
    assert right.mask.sum() == 32 * 24


def test_soft_edges_lose_no_pixel() -> None:
    large = Image.new("RGB", (512, 512), PALETTE[0])
    ImageDraw.Draw(large).ellipse((100, 100, 400, 400), fill=PALETTE[1])
    soft = large.resize((64, 64), Image.Resampling.BICUBIC).convert("RGBA")
    layout = Layout((Brush("ground", PALETTE[0]), Brush("disc", PALETTE[1])), url(soft))
    ground, disc = (region.mask for region in layout.regions)
    assert torch.equal(ground + disc, torch.ones(64, 64))
    assert disc.sum() == pytest.approx(torch.pi * (150 / 8) ** 2, rel=0.03)


def test_half_transparent_is_painted_from_one_half_on() -> None:
    image = Image.new("RGBA", (2, 2))
    colour = Brush("a", PALETTE[0]).rgb
    for at, alpha in enumerate((0, 127, 128, 255)):
        image.putpixel((at % 2, at // 2), (*colour, alpha))
    (region,) = Layout((Brush("a", PALETTE[0]),), url(image)).regions
    assert region.mask.tolist() == [[0, 0], [1, 1]]


def test_a_brush_that_painted_nothing_has_no_region(drawn: Draw) -> None:
    layout = drawn({"red circle": (0, 0, 9, 9), "blue square": (0, 0, 9, 9)})  # the second over all of the first
    assert [region.phrase for region in layout.regions] == ["blue square"]
    assert layout.unpainted == ["red circle"]
    assert Layout((Brush("a", PALETTE[0]),)).regions == []


def test_the_value_of_the_page_goes_there_and_back(drawn: Draw) -> None:
    layout = drawn({"red": (0, 0, 9, 9), "blue": (10, 10, 20, 20)})
    heavy = dataclasses.replace(layout.brushes[1], weight=2.5, occurrence=2)
    layout = Layout((layout.brushes[0], heavy), layout.image)
    assert Layout.from_value({"prompt": "ignored", **layout.value()}) == layout
    assert layout.regions[1].weight == 2.5
    assert layout.regions[1].occurrence == 2
    for empty in (None, {}, "", {"brushes": None, "image": None}):
        assert Layout.from_value(empty) == Layout()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"brushes": [{"phrase": "a", "colour": "#123456"}]}, "the colour of 'a' must be one of #e5484d, "),
        ({"brushes": [{"phrase": "a"}]}, "the canvas holds no layout: KeyError"),
        ({"brushes": ["a"]}, "the canvas holds no layout"),
        ({"brushes": [{"phrase": "a", "colour": PALETTE[0], "weight": []}]}, "the canvas holds no layout"),
        ({"brushes": [{"phrase": w, "colour": PALETTE[0]} for w in "ab"]}, "the same brush colour"),
        ({"brushes": [{"phrase": w, "colour": PALETTE[0]} for w in "abcdefghi"]}, "9 phrases are too many"),
    ],
)
def test_what_is_no_layout_is_refused(value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Layout.from_value(value)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (HEAD + "no base64!", "is broken"),
        (HEAD + "aGVsbG8=", "is broken"),
        (url(Image.new("RGBA", (8, 9))), "got 8x9"),
        (url(Image.new("RGBA", (2000, 2000))), "at most 1024 pixels wide, got 2000x2000"),
        (url(Image.new("RGBA", (64, 64), "red"))[:-40], "is broken"),
    ],
)
def test_a_broken_picture_is_refused(image: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        _ = Layout((Brush("a", PALETTE[0]),), image).regions


def test_the_canvas_is_in_the_package() -> None:
    parts = assets()
    assert "<canvas" in parts["html_template"]
    assert parts["palette"] == list(PALETTE)
    for name in (".board", ".hint", ".complaint", ".ring"):
        assert name in parts["css_template"]
        assert name in parts["js_on_load"]
    for kind in ("html_template", "css_template"):  # Gradio evaluates both as templates
        assert not any(mark in parts[kind] for mark in ("${", "{{", "`", "\\"))
    assert "sentence" in PHRASES
