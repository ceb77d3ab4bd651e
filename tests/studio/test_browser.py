"""The page in a real browser: phrases, drawing, errors, stopping, two tabs, and no request to another host."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ediffi.io.images import open_image
from ediffi.io.png import settings_of
from ediffi.studio.canvas import PALETTE, CanvasLayout
from tests.studio.tab import READY, STEPS, Studio, generate, inked, number, select_words, stroke, write

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


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
        tab.click("#actions a")
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
    stroke(tab, (0.5, 0.5), (0.6, 0.5))
    assert "Give some words a brush first" in tab.inner_text("#canvas .message")
    select_words(tab, "red", "circle")
    stroke(tab, (0.3, 0.5), (0.6, 0.6))
    whole, colours = inked(tab)
    assert colours == [",".join(map(str, (*bytes.fromhex(PALETTE[0][1:]), 255)))]  # no soft edges
    tab.click("[data-tool=erase]")
    stroke(tab, (0.3, 0.5), (0.4, 0.5))
    assert 0 < inked(tab)[0] < whole
    tab.click("[data-tool=undo]")
    assert inked(tab)[0] == whole
    tab.click("[data-tool=clear]")
    assert inked(tab)[0] == 0
    tab.click("[data-tool=undo]")
    assert inked(tab)[0] == whole
    tab.click("#phrases .chip .remove")
    assert inked(tab)[0] == 0


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
        tab.locator("#phrases .chip .remove").first.click()
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


def test_a_reload_loses_nothing_and_images_can_be_repeated(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a green triangle"), studio.images
    number(tab, "Seed", 77)
    number(tab, "Images", 2)
    select_words(tab, "green", "triangle")
    stroke(tab, (0.5, 0.5), (0.5, 0.7))
    painted = inked(tab)
    generate(tab)
    made = sorted(studio.images - before)
    assert len(made) == 2
    tab.reload()
    tab.wait_for_selector(f'#grid [data-name="{made[1].name}"]')
    tab.wait_for_selector("#phrases .chip:has-text('green triangle')")
    tab.wait_for_function("document.querySelector('#prompt textarea').value === 'a green triangle'")
    assert tab.get_by_label("Seed", exact=True).input_value() == "77"
    assert inked(tab) == painted

    write(tab, "a yellow cross")
    number(tab, "Seed", 3)
    tab.click("#phrases .chip .remove")
    tab.click(f'#grid [data-name="{made[1].name}"]')
    tab.wait_for_selector("#details:has-text('77, image 2')")
    assert str(made[1]) in tab.inner_text("#details")
    tab.click("[data-action=restore]")
    tab.wait_for_selector("#phrases .chip:has-text('green triangle')")
    assert tab.input_value("#prompt textarea") == "a green triangle"
    assert tab.get_by_label("Seed", exact=True).input_value() == "77"
    generate(tab)
    again = sorted(studio.images - before - set(made))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in made]

    tab.click(f'#grid [data-name="{made[1].name}"]')
    tab.wait_for_selector("#details:has-text('77, image 2')")
    tab.click("[data-action=again]")
    tab.wait_for_function("document.querySelector('[aria-label=\"First number\"]').value === '2'")
    generate(tab)
    (alone,) = studio.images - before - set(made) - set(again)
    one, other = (np.asarray(open_image(path), int) for path in (alone, made[1]))
    assert np.abs(one - other).max() <= 1  # in a batch of another size, the last bits of sums differ

    tab.click("[data-action=delete]")
    tab.wait_for_selector(f"#panel .notice:has-text('{alone.name} is now in {studio.folder / 'deleted'}')")
    assert (studio.folder / "deleted" / alone.name).is_file()
    assert not alone.exists()
    assert not tab.locator(f'#grid [data-name="{alone.name}"]').count()


def test_a_new_seed_each_time(studio: Studio, open_tab: Any) -> None:
    tab, before = open_tab("a green triangle"), studio.images
    tab.get_by_label("A new seed each time").check()
    for _ in range(2):
        generate(tab)
    seeds = {settings_of(path)["seed"] for path in studio.images - before}
    assert len(seeds) == 2
    assert int(tab.get_by_label("Seed", exact=True).input_value()) in seeds


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
