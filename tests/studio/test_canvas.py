"""A drawing on the canvas becomes regions, pixel for pixel; a broken layout is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from ediffi.io.png import DATA_URL
from ediffi.studio.canvas import FAINTEST, PALETTE, Brush, CanvasLayout, assets
from tests.studio.conftest import url

Draw = Callable[..., CanvasLayout]


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
    layout = CanvasLayout((Brush("ground", PALETTE[0]), Brush("disc", PALETTE[1])), url(soft))
    ground, disc = (region.mask for region in layout.regions)
    assert torch.equal(ground + disc, torch.ones(64, 64))
    assert disc.sum() == pytest.approx(torch.pi * (150 / 8) ** 2, rel=0.03)


def test_a_pixel_belongs_to_its_phrase_as_far_as_it_is_opaque() -> None:
    image = Image.new("RGBA", (2, 2))
    for at, alpha in enumerate((0, 7, 51, 255)):
        image.putpixel((at % 2, at // 2), (*bytes.fromhex(PALETTE[0][1:]), alpha))
    (region,) = CanvasLayout((Brush("a", PALETTE[0]),), url(image)).regions
    assert torch.equal(region.mask, torch.tensor([[0, 0], [0.2, 1]]))


def test_no_colour_is_taken_for_another_when_a_browser_rounds_it() -> None:
    """Browsers keep colours times opacity, in 8 bits, and divide again."""
    faint = round(FAINTEST * 255)
    for alpha in (faint, faint + 1, 40, 200):
        image = Image.new("RGBA", (8, 8))
        for k, colour in enumerate(PALETTE):
            kept = [round(round(value * alpha / 255) * 255 / alpha) for value in bytes.fromhex(colour[1:])]
            image.paste((*(min(value, 255) for value in kept), alpha), (k, 0, k + 1, 8))
        layout = CanvasLayout(tuple(Brush(colour, colour) for colour in PALETTE), url(image))
        columns = [region.mask.any(0).nonzero().flatten().tolist() for region in layout.regions]
        assert columns == [[k] for k in range(8)], alpha


def test_a_brush_that_drew_nothing_has_no_region(drawn: Draw) -> None:
    layout = drawn({"red circle": (0, 0, 9, 9), "blue square": (0, 0, 9, 9)})  # the second covers the first
    assert [region.phrase for region in layout.regions] == ["blue square"]
    assert layout.unpainted == ["red circle"]
    assert CanvasLayout((Brush("a", PALETTE[0]),)).regions == []


def test_a_layout_survives_json(drawn: Draw) -> None:
    layout = drawn({"red": (0, 0, 9, 9), "blue": (10, 10, 20, 20)})
    heavy = dataclasses.replace(layout.brushes[1], weight=2.5, occurrence=2)
    layout = CanvasLayout((layout.brushes[0], heavy), layout.image)
    content = layout.to_json()
    assert content["brushes"] == [
        {"phrase": "red", "colour": PALETTE[0], "weight": 1.0},
        {"phrase": "blue", "colour": PALETTE[1], "weight": 2.5, "occurrence": 2},
    ]
    assert CanvasLayout.from_json({"prompt": "ignored", **content}) == layout
    assert (layout.regions[1].weight, layout.regions[1].occurrence) == (2.5, 2)
    for empty in (None, {}, "", {"brushes": None, "image": None}):
        assert CanvasLayout.from_json(empty) == CanvasLayout()


@pytest.mark.parametrize(
    ("brushes", "message"),
    [
        ([{"phrase": "a", "colour": "#123456"}], "colour of 'a'"),
        ([{"phrase": "a"}], "KeyError"),
        (["a"], "broken layout"),
        ([{"phrase": "a", "colour": PALETTE[0], "weight": []}], "broken layout"),
        ([{"phrase": phrase, "colour": PALETTE[0]} for phrase in "ab"], "same brush colour"),
        ([{"phrase": phrase, "colour": PALETTE[0]} for phrase in "abcdefghi"], "9 phrases are too many"),
    ],
)
def test_broken_brushes_are_refused(brushes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CanvasLayout.from_json({"brushes": brushes})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (DATA_URL + "no base64!", "is broken"),
        (DATA_URL + "aGVsbG8=", "drawing of the layout"),
        (url(Image.new("RGBA", (8, 9))), "got 8x9"),
        (url(Image.new("RGBA", (2000, 2000))), "at most 1024 pixels wide, got 2000x2000"),
        (url(Image.new("RGBA", (64, 64), "red"))[:-40], "drawing of the layout"),
    ],
)
def test_a_broken_drawing_is_refused(image: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = CanvasLayout((Brush("a", PALETTE[0]),), image).regions


def test_the_canvas_is_in_the_package() -> None:
    parts = assets()
    assert "<canvas" in parts["html_template"]
    assert parts["palette"] == list(PALETTE)
    for name in (".board", ".hint", ".message", ".ring"):
        assert name in parts["css_template"]
        assert name in parts["js_on_load"]
    for kind in ("html_template", "css_template"):  # Gradio evaluates both as templates
        assert not any(mark in parts[kind] for mark in ("${", "{{", "`", "\\"))
