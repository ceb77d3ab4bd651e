"""Variations, a grid and a comparison in a real browser."""

from typing import Any

import pytest

from ediffi.io.png import settings_of
from tests.studio.tab import Studio, generate, run, select_words, stroke

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_variations_of_an_image_are_made_and_compared(studio: Studio, open_tab: Any) -> None:
    tab = open_tab("a red circle")
    generate(tab)
    before = studio.images
    run(tab, lambda: tab.click("[data-action=vary]"))
    made = sorted(studio.images - before)
    assert len(made) == 4
    assert tab.locator("#panel .n4 img").count() == 4
    orders = [settings_of(path)["order"] for path in made]
    assert all((order["variation"], order["variation_of"], order["first_index"]) == (0.3, 0, 1) for order in orders)

    tab.click("[data-action=compare]")
    tab.wait_for_selector("#panel .notice:has-text('choose another image')")
    tab.click(f'#grid [data-name="{made[2].name}"]')
    tab.wait_for_selector("#panel .compare")
    slider = tab.locator("#panel .compare input")
    slider.focus()
    clip = "getComputedStyle(document.querySelector('#panel .compare .over')).clipPath"
    middle = tab.evaluate(clip)
    tab.keyboard.press("End")
    assert tab.evaluate(clip) != middle
    tab.click(f'#grid [data-name="{made[1].name}"]')
    tab.wait_for_selector("#panel .panel:not(.compare)")

    tab.click("[data-action=edit]")
    tab.wait_for_selector("#canvas .board.over")
    generate(tab)
    tab.click("[data-action=compare]")
    tab.wait_for_selector("#panel .line:has-text('before | after')")


def test_a_grid_of_guidance_and_paint_weight(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a red circle"), studio.images
    tab.get_by_role("tab", name="Grid").click()
    tab.get_by_label("Paint weight, down").fill("0, 1")
    tab.click("#draw-grid")
    tab.wait_for_selector("#sheet [role=alert]:has-text('nothing is painted')")
    select_words(tab, "red", "circle")
    stroke(tab, (0.3, 0.3), (0.5, 0.3))
    tab.get_by_label("Guidance, across").fill("1, 4")
    run(tab, lambda: tab.click("#draw-grid"))
    assert tab.locator("#sheet td img").count() == 4
    pairs = {
        (order["guidance_scale"], order["paint_weight"])
        for order in (settings_of(path)["order"] for path in studio.images - before)
    }
    assert pairs == {(1, 0), (4, 0), (1, 1), (4, 1)}
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate(
        "document.querySelector('#sheet table').offsetWidth <= document.querySelector('#sheet').clientWidth"
    )
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.locator("#sheet .card").last.click()
    tab.wait_for_selector("#panel img")
    assert "guidance" in tab.inner_text("#details")
