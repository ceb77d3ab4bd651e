"""The shipped model at few steps, behind a backend with an empty gallery; and the page in a browser."""

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from ediffi.io import png
from ediffi.pipeline.cascade import Cascade
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import PALETTE, Brush, CanvasLayout
from ediffi.studio.gallery import Gallery
from ediffi.studio.request import GenerationRequest
from tests.studio.tab import CHROMIUM, STEPS, Studio, number, write

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


url = png.data_url


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


# The page in a browser


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A running page, closed by an interrupt at the end."""
    folder = tmp_path_factory.mktemp("studio")
    command = [sys.executable, "-m", "ediffi", "studio", "--port", "0", "--output", str(folder)]
    interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs ignore interrupts
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=interruptible, **pipes)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.communicate()
        yield Studio(url, folder)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
    assert (process.returncode, out.strip()) == (0, "closed")
    notices = ("ignored, not in the vocabulary of toybox: ", "too long for clip_text, ", "the image is 256x256; sr256 ")
    assert all(line.startswith(notices) for line in err.splitlines()), err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("gradio")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_tab(browser: Any, studio: Studio) -> Iterator[Any]:
    """A function that opens the page with few steps. At the end: no script error, no request to another host."""
    contexts, requests, errors = [], [], []

    def open_one(
        prompt: str = PROMPT, steps: dict[str, int] = STEPS, size: tuple[int, int] = (1280, 900), **options: Any
    ) -> Any:
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, accept_downloads=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(120_000)  # on a machine that other work shares, a page may take a minute
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(studio.url)
        tab.wait_for_selector("#phrases [data-word]")
        tab.wait_for_selector("#grid .grid")
        write(tab, prompt)
        for stage, count in steps.items():
            number(tab, f"{stage} steps", count)
        return tab

    yield open_one
    for context in contexts:
        context.close()
    assert not [url for url in requests if not url.startswith((studio.url, "data:", "blob:"))]
    assert not errors
