"""A bar on a terminal, lines in a log."""

import logging
import re
import sys
import time

import pytest

from ediffi.io import progress
from ediffi.io.progress import Progress

LINE = re.compile(r"\d\d:\d\d:\d\d pictures: image (\d+) of 40, .*image.*, \d\d:\d\d gone, \d\d:\d\d left(, loss=2)?$")


def test_a_log_gets_a_line_every_so_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    caplog.set_level(logging.INFO)
    bar = Progress(range(40), desc="pictures", total=40, unit="image")
    for number in bar:
        time.sleep(0.01)
        if number == 20:
            bar.set_postfix({"loss": 2}, refresh=False)
    lines = [LINE.match(record.getMessage()) for record in caplog.records]
    assert all(lines)
    assert 4 <= len(lines) <= 10
    assert [int(line[1]) for line in lines if line][-1] == 40
    assert (lines[0][2], lines[-1][2]) == (None, ", loss=2")
    assert capsys.readouterr() == ("", "")


def test_what_is_said_of_a_step_is_no_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    caplog.set_level(logging.INFO)
    with Progress(total=40, unit="image") as bar:
        for _ in range(40):
            time.sleep(0.01)
            bar.set_description_str("pictures")
            bar.update()
    lines = [LINE.match(record.getMessage()) for record in caplog.records]
    assert all(lines)
    assert 4 <= len(lines) <= 16


def test_short_work_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert list(Progress(range(3), unit="image")) == [0, 1, 2]
    assert list(Progress(range(3), unit="image", disable=True)) == [0, 1, 2]
    assert not caplog.records


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    caplog.set_level(logging.INFO)
    list(Progress(range(3), desc="pictures", unit="image"))
    assert "pictures: 100%|" in capsys.readouterr().err
    assert not caplog.records
