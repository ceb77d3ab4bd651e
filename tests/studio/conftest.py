"""The shipped model at few steps, behind a backend with an empty gallery."""

import base64
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from ediffi.pipeline.cascade import Cascade
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import DATA_URL, PALETTE, Brush, CanvasLayout
from ediffi.studio.gallery import Gallery
from ediffi.studio.request import GenerationRequest

PROMPT = "a red circle left of a blue square on a pink background"
Box = tuple[int, int, int, int]


@pytest.fixture(scope="session")
def cascade() -> Cascade:
    return Cascade.from_pretrained("toybox")


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "images")


@pytest.fixture
def backend(cascade: Cascade, gallery: Gallery) -> Backend:
    return Backend(cascade, gallery)


@pytest.fixture
def wanted(cascade: Cascade) -> GenerationRequest:
    """A request of six steps."""
    return dataclasses.replace(GenerationRequest.default(cascade, PROMPT), num_inference_steps=(3, 2, 1), seed=5)


def url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return DATA_URL + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def drawn() -> Callable[..., CanvasLayout]:
    """A function that draws a rectangle for each phrase."""

    def draw(boxes: dict[str, Box], side: int = 64) -> CanvasLayout:
        image = Image.new("RGBA", (side, side))
        for box, colour in zip(boxes.values(), PALETTE, strict=False):
            ImageDraw.Draw(image).rectangle(box, fill=colour)
        brushes = (Brush(phrase, colour) for phrase, colour in zip(boxes, PALETTE, strict=False))
        return CanvasLayout(tuple(brushes), url(image))

    return draw
