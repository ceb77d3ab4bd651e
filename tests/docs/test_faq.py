"""docs/faq.md: each command of it is run, and says what the page says."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ediffi.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^```console\n\$ ediffi (.*)\n(.*)\n```$", PAGE, re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the commands name."""
    for name, size, color in (("wide", (64, 48), 0), ("square", (64, 64), 0), ("small", (32, 32), 0)):
        Image.new("RGB", size, color).save(tmp_path / f"{name}.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    layout = [{"phrase": "green dog", "mask": [[0, 0], [1, 0], [1, 1]]}]
    (tmp_path / "layout.json").write_text(json.dumps(layout))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("line", "message"), SHOWN, ids=[line for line, _ in SHOWN])
def test_a_command_says_what_the_page_says(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(shlex.split(line))
    assert message in capsys.readouterr().err
    assert (code != 0) == message.startswith("ediffi: error")


def test_the_page_has_no_message_that_is_not_run() -> None:
    assert len(SHOWN) == PAGE.count("ediffi: error") + PAGE.count("ignored, not in") > 15
