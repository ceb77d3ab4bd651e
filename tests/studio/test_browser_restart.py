"""A studio that is stopped and started again, under an open page."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.studio.tab import READY, generate, inked, select_words, stroke, write

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def start(folder: Path, port: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "ediffi", "studio", "--port", port, "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()  # closes its pipe


def test_the_page_outlives_the_studio(browser: Any, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "green").save(tmp_path / "style.png")
    process, url = start(tmp_path / "out", "0")
    try:
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(url)
        tab.wait_for_selector("#phrases [data-word]")
        tab.wait_for_selector("#grid .grid")
        write(tab, "a green triangle")
        select_words(tab, "green", "triangle")
        stroke(tab, (0.5, 0.5), (0.6, 0.5))
        tab.set_input_files("#style input[type=file]", tmp_path / "style.png")
        tab.wait_for_selector("#style .thumb.full")
        painted = inked(tab)
        stop(process)
        tab.wait_for_selector(".stopped:not([hidden]):has-text('what is on this page is kept')")
        assert inked(tab) == painted
        process, again = start(tmp_path / "out", url.rpartition(":")[2])
        assert again == url
        tab.wait_for_selector(".stopped[hidden]", state="attached")
        tab.wait_for_selector("#phrases .chip:has-text('green triangle')")
        tab.wait_for_function("document.querySelector('#prompt textarea')?.value === 'a green triangle'")
        tab.wait_for_selector("#style .thumb.full")
        tab.wait_for_selector(READY)
        assert inked(tab) == painted
        generate(tab)
        assert len(list((tmp_path / "out").glob("*.png"))) == 1
        context.close()
    finally:
        stop(process)
