"""A visitor at the page, in a real browser: words, paint, errors, stopping, two tabs, and nothing from elsewhere."""

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
from ediffi.studio.canvas import PALETTE, Layout
from tests.studio.conftest import PROMPT

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
STEPS = {"base": 4, "sr64": 2, "sr256": 1}
READY = "#paint:not([disabled])"


class Studio(NamedTuple):
    """A page that runs, and the folder of its pictures."""

    url: str
    folder: Path

    @property
    def pictures(self) -> set[Path]:
        return set(self.folder.glob("*.png"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    command = [sys.executable, "-m", "ediffi", "studio", "--port", "0", "--output", str(folder)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background would ignore an interrupt
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=heard, **pipes)
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
    assert (process.returncode, out.strip(), err) == (0, "closed", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_tab(studio: Studio, browser: Any) -> Iterator[Any]:
    """Opens the page in a tab, ready with few steps; in the end no tab asked for anything but the page's own."""
    contexts, asked, complaints = [], [], []

    def open_one(prompt: str = PROMPT, steps: dict[str, int] = STEPS) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(studio.url)
        tab.wait_for_selector("#phrases [data-word]")
        tab.wait_for_selector("#shelf .shelf")
        write(tab, prompt)
        for stage, count in steps.items():
            number(tab, f"{stage} steps", count)
        return tab

    yield open_one
    for context in contexts:
        context.close()
    assert not [url for url in asked if not url.startswith((studio.url, "data:", "blob:"))]
    assert not complaints


def write(tab: Any, prompt: str) -> None:
    tab.fill("#prompt textarea", prompt)
    last = prompt.split()[-1] if prompt.split() else "Write a prompt first."
    tab.wait_for_function("text => document.querySelector('#phrases .sentence').textContent.endsWith(text)", arg=last)


def number(tab: Any, name: str, value: int) -> None:
    field = tab.get_by_label(name, exact=True)
    field.fill(str(value))
    field.blur()


def choose_words(tab: Any, first: str, last: str) -> None:
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


def paint(tab: Any) -> None:
    tab.click("#paint")
    tab.wait_for_selector("#paint[disabled]")
    tab.wait_for_selector(READY)


def test_two_phrases_are_painted_and_the_picture_carries_them(studio: Studio, open_tab: Any, tmp_path: Path) -> None:
    tab, before = open_tab(), studio.pictures
    choose_words(tab, "red", "circle")
    stroke(tab, (0.15, 0.5), (0.35, 0.5))
    choose_words(tab, "blue", "square")
    stroke(tab, (0.65, 0.3), (0.85, 0.3))
    assert tab.locator("#phrases .chip .text").all_inner_texts() == ["red circle", "blue square"]
    paint(tab)
    (made,) = studio.pictures - before
    tab.wait_for_selector(f'#sheet img[src*="{made.name}"]')
    shown = "document.querySelector('#sheet img')"
    tab.wait_for_function(f"{shown}.complete && {shown}.naturalWidth === 256")
    assert tab.locator("#stages .stage.done img").count() == 3

    with tab.expect_download() as download:
        tab.click("#label a")
    download.value.save_as(tmp_path / "downloaded.png")
    order = settings_of(tmp_path / "downloaded.png")["order"]
    assert order["num_inference_steps"] == list(STEPS.values())
    layout = Layout.from_value(order["layout"])
    assert [(b.phrase, b.colour) for b in layout.brushes] == [("red circle", PALETTE[0]), ("blue square", PALETTE[1])]
    centres = [np.argwhere(region.mask.numpy()).mean(0) / len(region.mask) for region in layout.regions]
    assert np.allclose(centres, [(0.5, 0.25), (0.3, 0.75)], atol=0.01)

    tab.get_by_role("tab", name="Where the words went").click()
    tab.click("#look")
    tab.wait_for_selector("#words figure")
    assert "circle" in tab.inner_text("#words")


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
    assert "Give some words a brush first" in tab.inner_text("#canvas .complaint")
    choose_words(tab, "red", "circle")
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


def test_wrong_words_are_said_on_the_page(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a fluffy red circle"), studio.pictures
    tab.fill("#phrases input", "green star")
    tab.press("#phrases input", "Enter")
    assert tab.locator("#phrases .chip.lost").count() == 1
    tab.click("#paint")
    alert = tab.wait_for_selector("#sheet [role=alert]")
    assert alert.inner_text() == "the phrase 'green star' is not in the prompt 'a fluffy red circle'"
    for k in range(8):
        tab.fill("#phrases input", f"phrase {k}")
        tab.press("#phrases input", "Enter")
    assert tab.locator("#phrases .chip").count() == 8
    assert "only 8 brush colours" in tab.inner_text("#canvas .complaint")
    for _ in range(8):
        tab.locator("#phrases .chip button").first.click()
    write(tab, " ")
    tab.click("#paint")
    tab.wait_for_selector("#sheet [role=alert]:has-text('the prompt is empty')")
    assert studio.pictures == before
    write(tab, "a fluffy red circle")
    paint(tab)
    assert "not in the vocabulary of toybox: fluffy" in tab.inner_text("#label")


def test_stopping_frees_the_model(studio: Studio, open_tab: Any) -> None:
    before, tab = studio.pictures, open_tab(steps={"base": 500})
    tab.click("#paint")
    tab.wait_for_selector("#sheet .line:has-text('base: step')")
    assert tab.locator("#stages .stage.running .expert.lit").count() == 1
    tab.click("#stop")
    tab.wait_for_selector("#sheet .line:has-text('stopped')")
    tab.wait_for_selector(READY)
    assert studio.pictures == before
    number(tab, "base steps", 3)
    paint(tab)
    assert len(studio.pictures - before) == 1


def test_pictures_survive_a_reload_and_are_made_again(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a green triangle"), studio.pictures
    number(tab, "Seed", 77)
    number(tab, "Pictures", 2)
    choose_words(tab, "green", "triangle")
    stroke(tab, (0.5, 0.5), (0.5, 0.7))
    paint(tab)
    made = sorted(studio.pictures - before)
    assert len(made) == 2
    tab.reload()
    tab.wait_for_selector(f'#shelf [data-name="{made[1].name}"]')
    assert tab.input_value("#prompt textarea") != "a green triangle"
    tab.click(f'#shelf [data-name="{made[1].name}"]')
    tab.wait_for_selector("#label:has-text('77, picture 2')")
    tab.click("[data-deed=again]")
    tab.wait_for_selector("#phrases .chip:has-text('green triangle')")
    assert tab.input_value("#prompt textarea") == "a green triangle"
    assert tab.get_by_label("Seed", exact=True).input_value() == "77"
    paint(tab)
    again = sorted(studio.pictures - before - set(made))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in made]


def test_two_tabs_are_served_in_turn(studio: Studio, open_tab: Any) -> None:
    before = studio.pictures
    one, two = open_tab("a green triangle", {"base": 80}), open_tab("a yellow cross")
    one.click("#paint")
    one.wait_for_selector("#sheet .line:has-text('base: step')")
    two.click("#paint")
    two.wait_for_selector("#sheet .line:has-text('waiting: 1 run before this one')")
    one.wait_for_selector(READY)
    two.wait_for_selector(READY)
    made = {settings_of(path)["prompt"]: path.name for path in studio.pictures - before}
    for tab, prompt in ((one, "a green triangle"), (two, "a yellow cross")):
        assert prompt in tab.inner_text("#sheet .line")
        assert made[prompt] in tab.get_attribute("#sheet img", "src")


def test_leaving_stops_the_run(studio: Studio, open_tab: Any) -> None:
    gone, stays = open_tab(steps={"base": 500}), open_tab()
    gone.click("#paint")
    gone.wait_for_selector("#sheet .line:has-text('base: step')")
    gone.close()
    before = studio.pictures
    paint(stays)
    assert len(studio.pictures - before) == 1
