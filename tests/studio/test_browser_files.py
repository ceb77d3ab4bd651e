"""Layouts and images of ours, out of the page and back, in a real browser."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ediffi.diffusion.layout import Region, layout_json, read_layout
from ediffi.io.images import open_image
from ediffi.io.png import settings_of
from tests.studio.tab import STEPS, Studio, drop, generate, inked, number, select_words, stroke

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_saved_layout_paints_the_same_image_on_the_command_line(
    studio: Studio, open_tab: Any, tmp_path: Path
) -> None:
    prompt = "a red circle and a blue square on a pink background"
    tab, before, layout = open_tab(prompt), studio.images, tmp_path / "layout.json"
    tab.click("#save-layout")
    tab.wait_for_selector("#panel [role=alert]:has-text('nothing is painted')")
    select_words(tab, "red", "circle")
    stroke(tab, (0.2, 0.3), (0.3, 0.5))
    select_words(tab, "blue", "square")
    stroke(tab, (0.7, 0.6), (0.8, 0.8))
    number(tab, "Seed", 11)
    painted = inked(tab)
    generate(tab)
    (made,) = studio.images - before
    with tab.expect_download() as download:
        tab.click("#save-layout")
    download.value.save_as(layout)
    order = settings_of(made)["order"]
    command = [sys.executable, "-m", "ediffi", "sample", prompt, "--paint", layout, "--seed", "11", "-o", "out.png"]
    command += ["--num-inference-steps", str(list(STEPS.values()))]
    command += ["--guidance-scale", f"{order['guidance_scale']}", "--paint-weight", f"{order['paint_weight']}"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert np.array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(open_image(made)))

    tab.click("[data-tool=clear]")
    assert inked(tab)[0] == 0
    drop(tab, layout)
    tab.wait_for_function("document.querySelector('#canvas .hint').classList.contains('gone')")
    assert inked(tab) == painted


def test_a_soft_layout_stays_soft(open_tab: Any, tmp_path: Path) -> None:
    soft = torch.zeros(128, 128)
    soft[:, :60] = torch.linspace(1, 0.1, 60)
    regions = [Region("red circle", soft, 1.5), Region("blue square", soft.flip(1).round())]
    layout, saved = tmp_path / "layout.json", tmp_path / "saved.json"
    layout.write_text(layout_json(regions), "utf-8")
    tab = open_tab("a red circle and a blue square")
    drop(tab, layout)
    tab.wait_for_selector("#phrases .chip:has-text('blue square')")
    tab.wait_for_function("document.querySelector('#canvas .hint').classList.contains('gone')")
    whole = inked(tab)[0]
    stroke(tab, (0.5, 0.5), (0.5, 0.52))  # what is sent now was read back from the canvas
    tab.click("[data-tool=undo]")
    with tab.expect_download() as download:
        tab.click("#save-layout")
    download.value.save_as(saved)
    for one, other in zip(read_layout(saved), read_layout(layout), strict=True):
        assert (one.phrase, one.weight) == (other.phrase, other.weight)
        shrunk = one.mask.reshape(128, 4, 128, 4).mean((1, 3))  # the page draws at 512
        assert torch.allclose(shrunk, other.mask, atol=1 / 255)
    tab.click("#phrases .chip .remove >> nth=0")
    assert 0 < inked(tab)[0] < whole * 0.6


def test_a_dropped_image_of_ours_restores_the_form(studio: Studio, open_tab: Any, tmp_path: Path) -> None:
    tab, before = open_tab("a green triangle"), studio.images
    number(tab, "Seed", 78)
    select_words(tab, "green", "triangle")
    stroke(tab, (0.5, 0.5), (0.5, 0.7))
    painted = inked(tab)
    generate(tab)
    (made,) = studio.images - before
    made.rename(tmp_path / "from a friend.png")
    other = open_tab("a yellow cross")
    select_words(other, "yellow", "cross")
    drop(other, tmp_path / "from a friend.png")
    other.wait_for_selector("#phrases .chip:has-text('green triangle')")
    assert other.input_value("#prompt textarea") == "a green triangle"
    assert other.get_by_label("Seed", exact=True).input_value() == "78"
    assert inked(other) == painted
    other.click("[data-tool=undo]")  # what was on the canvas is not lost
    assert other.locator("#phrases .chip .text").all_inner_texts() == ["yellow cross"]
