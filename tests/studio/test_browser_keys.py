"""The page by keyboard alone: words, brushes, strokes, the view, weights, and the start of a job."""

from typing import Any

import pytest

from ediffi.io.png import settings_of
from tests.studio.tab import Studio, inked, run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_an_image_is_painted_without_a_mouse(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a red circle"), studio.images
    key = tab.keyboard.press
    tab.focus("#phrases .legend input")
    tab.keyboard.type("red circle")
    key("Enter")
    tab.focus("#canvas .board")
    sizes = [int(tab.input_value("#canvas .size input"))]
    for press in "][":
        key(press)
        sizes.append(int(tab.input_value("#canvas .size input")))
    assert sizes[0] < sizes[1] > sizes[2]
    key("Space")
    dab, _ = inked(tab)
    assert dab > 3 * sizes[2] ** 2
    tab.keyboard.down("Shift")
    for _ in range(4):
        key("ArrowRight")
    tab.keyboard.up("Shift")
    line, _ = inked(tab)
    assert line > dab
    key("Control+z")
    assert inked(tab)[0] == dab
    key("Control+z")
    assert inked(tab)[0] == 0
    key("Control+y")
    key("Control+Shift+z")
    assert inked(tab)[0] == line
    key("e")
    assert tab.get_attribute("[data-tool=erase]", "aria-pressed") == "true"
    key("1")
    assert tab.get_attribute("#phrases .pick", "aria-pressed") == "true"
    key("+")
    scale = "document.querySelector('#canvas .sheet').getBoundingClientRect().width"
    board = "document.querySelector('#canvas .board').clientWidth"
    assert tab.evaluate(f"{scale} > 1.4 * {board}")
    key("0")
    assert tab.evaluate(f"Math.abs({scale} - {board}) < 2")
    key("?")
    assert tab.locator("#canvas dl.keys").is_visible()
    tab.focus("#prompt textarea")
    run(tab, lambda: key("Control+Enter"))
    (made,) = studio.images - before
    assert settings_of(made)["order"]["layout"]["brushes"][0]["phrase"] == "red circle"


def test_selected_words_are_weighted(open_tab: Any) -> None:
    tab = open_tab("a red circle")
    tab.evaluate("document.querySelector('#prompt textarea').setSelectionRange(3, 3)")
    for _ in range(2):
        tab.press("#prompt textarea", "Control+ArrowUp")
    assert tab.input_value("#prompt textarea") == "a (red:1.2) circle"
    tab.wait_for_function("document.querySelector('#phrases .sentence').textContent === 'a red circle'")
    tab.click("[data-weigh='-1']")
    assert tab.input_value("#prompt textarea") == "a (red:1.1) circle"
    tab.press("#prompt textarea", "Control+ArrowDown")
    assert tab.input_value("#prompt textarea") == "a red circle"
    tab.press("#prompt textarea", "Control+ArrowDown")
    assert tab.input_value("#prompt textarea") == "a (red:0.9) circle"


def test_the_wheel_sizes_the_brush_zooms_and_space_moves(open_tab: Any) -> None:
    tab = open_tab("a red circle")
    box = tab.locator("#canvas .board").bounding_box()
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 4
    tab.mouse.move(x, y)
    size = int(tab.input_value("#canvas .size input"))
    tab.mouse.wheel(0, -100)
    tab.wait_for_function(f"Number(document.querySelector('#canvas .size input').value) > {size}")
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -200)
    tab.keyboard.up("Control")
    tab.wait_for_selector("[data-tool=fit]:not([hidden])")
    sheet = "document.querySelector('#canvas .sheet').style.transform"
    before = tab.evaluate(sheet)
    tab.keyboard.down("Space")
    tab.mouse.down()
    tab.mouse.move(x - 60, y - 40, steps=3)
    tab.mouse.up()
    tab.keyboard.up("Space")
    assert tab.evaluate(sheet) != before
    assert not tab.locator("#canvas .message.on").count()  # moving is not painting
    tab.click("[data-tool=fit]")
    assert tab.evaluate(sheet) == ""
