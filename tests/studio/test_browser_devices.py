"""The page on a desk, a tablet and a phone, by touch, in light and dark; and axe-core's rules of accessibility."""

from importlib import resources
from typing import Any

import pytest

from tests.studio.tab import Studio, generate, inked, run, select_words, stroke

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
DESK, TABLET, PHONE = (1440, 900), (820, 1180), (390, 844)


class Fingers:
    """Touches of a screen, at points from 0 to 1 of an element."""

    def __init__(self, tab: Any, selector: str) -> None:
        self.session = tab.context.new_cdp_session(tab)
        tab.locator(selector).scroll_into_view_if_needed()
        self.box = tab.locator(selector).bounding_box()

    def send(self, kind: str, *points: tuple[float, float]) -> None:
        box = self.box
        touches = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": k}
            for k, (x, y) in enumerate(points)
        ]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})


@pytest.mark.parametrize("size", [TABLET, PHONE])
def test_it_is_painted_by_touch(studio: Studio, open_tab: Any, size: tuple[int, int]) -> None:
    tab, before = open_tab("a red circle", size=size, has_touch=True, is_mobile=True), studio.images
    words = Fingers(tab, "#phrases [data-word='1']")
    words.send("touchStart", (0.5, 0.5))
    words.send("touchMove", (1.5, 0.5))
    words.send("touchEnd")
    assert tab.inner_text("#phrases .chip .text") == "red circle"
    board = Fingers(tab, "#canvas .board")
    board.send("touchStart", (0.3, 0.3))
    board.send("touchMove", (0.5, 0.3))
    board.send("touchEnd")
    painted = inked(tab)
    assert painted[0] > 1000
    board.send("touchStart", (0.4, 0.5))
    board.send("touchStart", (0.4, 0.5), (0.6, 0.5))
    board.send("touchMove", (0.2, 0.5), (0.8, 0.5))
    board.send("touchEnd")
    assert inked(tab) == painted  # two fingers zoom, and do not paint
    assert "scale(3" in tab.evaluate("document.querySelector('#canvas .sheet').style.transform")
    tab.tap("[data-tool=fit]")
    tab.tap("[data-tool=undo]")
    assert inked(tab)[0] == 0
    run(tab, lambda: tab.tap("#generate"))
    assert len(studio.images - before) == 1


@pytest.mark.parametrize("size", [DESK, TABLET, PHONE])
def test_nothing_is_wider_than_the_screen(open_tab: Any, size: tuple[int, int]) -> None:
    tab = open_tab("a red circle", size=size)
    generate(tab)
    tab.click("[data-action=edit]")
    tab.wait_for_selector("#canvas .board.over")
    tab.click("[data-tool=keys]")
    tab.click("[data-toggle=help]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    boxes = {name: tab.locator(name).bounding_box() for name in ("#canvas .board", "#panel .panel", "#settings")}
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= size[0] for box in boxes.values())
    beside = boxes["#panel .panel"]["x"] > boxes["#canvas .board"]["x"] + 100
    assert beside == (size != PHONE)
    below = boxes["#settings"]["y"] >= boxes["#panel .panel"]["y"] + boxes["#panel .panel"]["height"]
    assert below == (size != DESK)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_axe_finds_no_violation(open_tab: Any, size: tuple[int, int], scheme: str) -> None:
    pytest.importorskip(
        "axe_playwright_python", reason="axe-playwright-python, which brings axe-core, is not installed"
    )
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    tab = open_tab("a fluffy red circle", size=size, color_scheme=scheme)
    tab.evaluate(axe)

    def violations() -> list[str]:
        # A colour half-way between two of a button's states is no colour of the page.
        tab.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
        found = tab.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]

    select_words(tab, "red", "circle")
    tab.click("[data-tool=keys]")
    tab.click("[data-toggle=help]")
    generate(tab)
    assert violations() == []
    tab.get_by_role("tab", name="Attention").click()
    tab.click("#show-attention")
    tab.wait_for_selector("#maps figure")
    tab.click("[data-action=edit]")
    tab.wait_for_selector("#canvas .board.over")
    stroke(tab, (0.4, 0.4), (0.6, 0.6))
    tab.fill("#phrases .legend input", "green star")
    tab.press("#phrases .legend input", "Enter")
    tab.click("#generate")
    tab.wait_for_selector("#panel [role=alert]")
    assert violations() == []
