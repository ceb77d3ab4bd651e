"""The page in a real browser: phrases, drawing, errors, stopping, two tabs, and no request to another host."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ediffi.io.png import settings_of
from ediffi.studio.canvas import PALETTE, CanvasLayout
from tests.studio.conftest import PROMPT

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
STEPS = {"base": 4, "sr64": 2, "sr256": 1}
READY = "#generate:not([disabled])"


class Studio(NamedTuple):
    """The address of a running page, and the folder of its images."""

    url: str
    folder: Path

    @property
    def images(self) -> set[Path]:
        return set(self.folder.glob("*.png"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
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
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out.strip()) == (0, "closed")
    notices = ("ignored, not in the vocabulary of toybox: ", "too long for clip_text, ")  # of the prompts below
    assert all(line.startswith(notices) for line in err.splitlines()), err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_tab(studio: Studio, browser: Any) -> Iterator[Any]:
    """A function that opens the page with few steps. At the end: no script error, no request to another host."""
    contexts, requests, errors = [], [], []

    def open_one(prompt: str = PROMPT, steps: dict[str, int] = STEPS) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
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


def write(tab: Any, prompt: str) -> None:
    tab.fill("#prompt textarea", prompt)
    last = prompt.split()[-1] if prompt.split() else "Write a prompt first."
    tab.wait_for_function("text => document.querySelector('#phrases .sentence').textContent.endsWith(text)", arg=last)


def number(tab: Any, name: str, value: int) -> None:
    field = tab.get_by_label(name, exact=True)
    field.fill(str(value))
    field.blur()


def select_words(tab: Any, first: str, last: str) -> None:
    """Drag over words of the prompt."""
    boxes = [tab.locator("#phrases [data-word]", has_text=word).first.bounding_box() for word in (first, last)]
    (x0, y0), (x1, y1) = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
    tab.mouse.move(x0, y0)
    tab.mouse.down()
    tab.mouse.move(x1, y1, steps=3)
    tab.mouse.up()


def stroke(tab: Any, *points: tuple[float, float]) -> None:
    """Paint along points, 0 to 1 from the top left of the canvas."""
    box = tab.locator("#canvas canvas").bounding_box()
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    tab.mouse.move(*spots[0])
    tab.mouse.down()
    for spot in spots[1:]:
        tab.mouse.move(*spot, steps=4)
    tab.mouse.up()


def generate(tab: Any) -> None:
    tab.click("#generate")
    tab.wait_for_selector("#generate[disabled]")
    tab.wait_for_selector(READY)


def test_two_phrases_are_drawn_and_stored_in_the_image(studio: Studio, open_tab: Any, tmp_path: Path) -> None:
    tab, before = open_tab(), studio.images
    select_words(tab, "red", "circle")
    stroke(tab, (0.15, 0.5), (0.35, 0.5))
    select_words(tab, "blue", "square")
    stroke(tab, (0.65, 0.3), (0.85, 0.3))
    assert tab.locator("#phrases .chip .text").all_inner_texts() == ["red circle", "blue square"]
    generate(tab)
    (made,) = studio.images - before
    tab.wait_for_selector(f'#panel img[src*="{made.name}"]')
    shown = "document.querySelector('#panel img')"
    tab.wait_for_function(f"{shown}.complete && {shown}.naturalWidth === 256")
    assert tab.locator("#stages .stage.done img").count() == 3

    with tab.expect_download() as download:
        tab.click("#details a")
    download.value.save_as(tmp_path / "downloaded.png")
    order = settings_of(tmp_path / "downloaded.png")["order"]
    assert order["num_inference_steps"] == list(STEPS.values())
    layout = CanvasLayout.from_json(order["layout"])
    assert [(b.phrase, b.colour) for b in layout.brushes] == [("red circle", PALETTE[0]), ("blue square", PALETTE[1])]
    centres = [np.argwhere(region.mask.numpy()).mean(0) / len(region.mask) for region in layout.regions]
    assert np.allclose(centres, [(0.5, 0.25), (0.3, 0.75)], atol=0.01)

    tab.get_by_role("tab", name="Attention").click()
    tab.click("#show-attention")
    tab.wait_for_selector("#maps figure")
    assert "circle" in tab.inner_text("#maps")


def test_the_brush_its_eraser_and_undo(open_tab: Any) -> None:
    tab = open_tab()
    inked = """() => {
      const canvas = document.querySelector('#canvas canvas');
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
      let count = 0;
      for (let at = 0; at < data.length; at += 4)
        if (data[at + 3]) { count++; seen.add([...data.slice(at, at + 4)].join()); }
      return [count, [...seen]];
    }"""
    stroke(tab, (0.5, 0.5), (0.6, 0.5))
    assert "Give some words a brush first" in tab.inner_text("#canvas .message")
    select_words(tab, "red", "circle")
    stroke(tab, (0.3, 0.5), (0.6, 0.6))
    whole, colours = tab.evaluate(inked)
    assert colours == [",".join(map(str, (*bytes.fromhex(PALETTE[0][1:]), 255)))]  # no soft edges
    tab.click("[data-tool=erase]")
    stroke(tab, (0.3, 0.5), (0.4, 0.5))
    assert 0 < tab.evaluate(inked)[0] < whole
    tab.click("[data-tool=undo]")
    assert tab.evaluate(inked)[0] == whole
    tab.click("[data-tool=clear]")
    assert tab.evaluate(inked)[0] == 0
    tab.click("[data-tool=undo]")
    assert tab.evaluate(inked)[0] == whole
    tab.click("#phrases .chip button")
    assert tab.evaluate(inked)[0] == 0


def test_wrong_input_is_an_alert(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a fluffy red circle"), studio.images
    tab.fill("#phrases input", "green star")
    tab.press("#phrases input", "Enter")
    assert tab.locator("#phrases .chip.lost").count() == 1
    tab.click("#generate")
    alert = tab.wait_for_selector("#panel [role=alert]")
    assert alert.inner_text() == "the phrase 'green star' is not in the prompt 'a fluffy red circle'"
    for k in range(8):
        tab.fill("#phrases input", f"phrase {k}")
        tab.press("#phrases input", "Enter")
    assert tab.locator("#phrases .chip").count() == 8
    assert "only 8 brush colours" in tab.inner_text("#canvas .message")
    for _ in range(8):
        tab.locator("#phrases .chip button").first.click()
    write(tab, " ")
    tab.click("#generate")
    tab.wait_for_selector("#panel [role=alert]:has-text('the prompt is empty')")
    assert studio.images == before
    write(tab, "a fluffy red circle")
    generate(tab)
    assert "not in the vocabulary of toybox: fluffy" in tab.inner_text("#details")


def test_stopping_frees_the_model(studio: Studio, open_tab: Any) -> None:
    before, tab = studio.images, open_tab(steps={"base": 500})
    tab.click("#generate")
    tab.wait_for_selector("#panel .line:has-text('base: step')")
    assert tab.locator("#stages .stage.running .expert.lit").count() == 1
    tab.click("#stop")
    tab.wait_for_selector("#panel .line:has-text('stopped')")
    tab.wait_for_selector(READY)
    assert studio.images == before
    number(tab, "base steps", 3)
    generate(tab)
    assert len(studio.images - before) == 1


def test_images_survive_a_reload_and_can_be_repeated(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a green triangle"), studio.images
    number(tab, "Seed", 77)
    number(tab, "Images", 2)
    select_words(tab, "green", "triangle")
    stroke(tab, (0.5, 0.5), (0.5, 0.7))
    generate(tab)
    made = sorted(studio.images - before)
    assert len(made) == 2
    tab.reload()
    tab.wait_for_selector(f'#grid [data-name="{made[1].name}"]')
    assert tab.input_value("#prompt textarea") != "a green triangle"
    tab.click(f'#grid [data-name="{made[1].name}"]')
    tab.wait_for_selector("#details:has-text('77, image 2')")
    tab.click("[data-action=restore]")
    tab.wait_for_selector("#phrases .chip:has-text('green triangle')")
    assert tab.input_value("#prompt textarea") == "a green triangle"
    assert tab.get_by_label("Seed", exact=True).input_value() == "77"
    generate(tab)
    again = sorted(studio.images - before - set(made))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in made]


def test_two_tabs_take_turns(studio: Studio, open_tab: Any) -> None:
    before = studio.images
    one, two = open_tab("a green triangle", {"base": 80}), open_tab("a yellow cross")
    one.click("#generate")
    one.wait_for_selector("#panel .line:has-text('base: step')")
    two.click("#generate")
    two.wait_for_selector("#panel .line:has-text('waiting for 1 earlier job')")
    one.wait_for_selector(READY)
    two.wait_for_selector(READY)
    made = {settings_of(path)["prompt"]: path.name for path in studio.images - before}
    for tab, prompt in ((one, "a green triangle"), (two, "a yellow cross")):
        assert prompt in tab.inner_text("#panel .line")
        assert made[prompt] in tab.get_attribute("#panel img", "src")


def test_closing_the_tab_stops_the_job(studio: Studio, open_tab: Any) -> None:
    gone, stays = open_tab(steps={"base": 500}), open_tab()
    gone.click("#generate")
    gone.wait_for_selector("#panel .line:has-text('base: step')")
    gone.close()
    before = studio.images
    generate(stays)
    assert len(studio.images - before) == 1
