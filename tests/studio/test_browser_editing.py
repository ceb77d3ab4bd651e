"""Changing and enlarging an image in a real browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ediffi.io.images import open_image
from ediffi.io.png import settings_of
from tests.studio.tab import Studio, drop, generate, inked, stroke

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_dropped_image_is_repainted_where_it_is_marked(studio: Studio, open_tab: Any, tmp_path: Path) -> None:
    tab, before = open_tab("a blue square on a pink background"), studio.images
    Image.new("RGB", (256, 200), "#ffb6c1").save(tmp_path / "plain.png")
    drop(tab, tmp_path / "plain.png")
    tab.wait_for_selector("#canvas .board.over")
    assert "plain.png is 256x200: its centre square is used" in tab.inner_text("#panel")
    assert tab.get_attribute("#canvas [data-task=edit]", "aria-pressed") == "true"
    assert tab.locator("#strength").is_visible()
    stroke(tab, (0.7, 0.3), (0.7, 0.7))
    assert inked(tab, "mask")[0] > 1000
    assert inked(tab)[0] == 0
    generate(tab)
    (new,) = studio.images - before
    order = settings_of(new)["order"]
    assert (order["task"], order["strength"]) == ("edit", 0.8)
    pixels = np.asarray(open_image(new))
    assert (pixels[:, :128] == (0xFF, 0xB6, 0xC1)).all()  # the left half was not marked
    tab.click("[data-tool=undo]")
    assert inked(tab, "mask")[0] == 0
    tab.click("[data-tool=remove]")
    assert not tab.locator("#canvas .board.over").count()
    tab.click("#generate")
    tab.wait_for_selector("#panel [role=alert]:has-text('there is no image to change')")


def test_an_image_of_the_gallery_is_changed_and_enlarged(studio: Studio, open_tab: Any) -> None:
    tab = open_tab("a red circle")
    generate(tab)
    before = studio.images
    tab.click("[data-action=edit]")
    tab.wait_for_selector("#canvas .board.over")
    generate(tab)
    tab.click("[data-action=upscale]")
    tab.wait_for_selector("#canvas [data-task=upscale][aria-pressed=true]")
    generate(tab)
    tasks = [settings_of(path)["order"]["task"] for path in sorted(studio.images - before)]
    assert tasks == ["edit", "upscale"]
    assert tab.locator("#stages .stage:has-text('does not run')").count() == 2


def test_a_file_that_is_no_image_or_too_large_is_told(open_tab: Any, tmp_path: Path) -> None:
    tab = open_tab()
    (tmp_path / "notes.png").write_text("not an image")
    drop(tab, tmp_path / "notes.png")
    tab.wait_for_selector("#panel [role=alert]:has-text('notes.png is not an image')")
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(51 << 20)
    tab.set_input_files("#files input[type=file]", tmp_path / "big.png")
    assert "big.png has 51 MB; files of at most 50 MB can be opened." in tab.inner_text("#canvas .message")
