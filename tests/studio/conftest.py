"""The shipped model at few steps, behind a desk with a shelf of its own."""

import base64
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from ediffi.pipeline.painter import Painter
from ediffi.studio.canvas import HEAD, PALETTE, Brush, Layout
from ediffi.studio.desk import Desk
from ediffi.studio.order import Order
from ediffi.studio.shelf import Shelf

PROMPT = "a red circle left of a blue square on a pink background"
Box = tuple[int, int, int, int]


@pytest.fixture(scope="session")
def painter() -> Painter:
    return Painter("toybox")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "pictures")


@pytest.fixture
def desk(painter: Painter, shelf: Shelf) -> Desk:
    return Desk(painter, shelf)


@pytest.fixture
def order(painter: Painter) -> Order:
    return dataclasses.replace(Order.usual(painter.cascade, PROMPT), num_inference_steps=(3, 2, 1), seed=5)


def url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return HEAD + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def drawn() -> Callable[..., Layout]:
    """A layout with a rectangle for each phrase."""

    def draw(boxes: dict[str, Box], side: int = 64) -> Layout:
        image = Image.new("RGBA", (side, side))
        for box, colour in zip(boxes.values(), PALETTE, strict=False):
            ImageDraw.Draw(image).rectangle(box, fill=colour)
        brushes = (Brush(phrase, colour) for phrase, colour in zip(boxes, PALETTE, strict=False))
        return Layout(tuple(brushes), url(image))

    return draw
