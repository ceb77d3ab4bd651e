"""Tables and scores hold the numbers of results.json to the last digit, in the formats of other programs."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ediffi.cli import main
from ediffi.evaluation.report.export import write_table
from ediffi.evaluation.results import Point, Results
from tests.evaluation.evaluations import evaluation, foreign, point
from tests.evaluation.test_report import judged


def two() -> list[Results]:
    ours = [replace(point(scale), intervals={"fid": (point(scale).metrics["fid"] - 1, 30)}) for scale in (1, 3)]
    theirs = replace(foreign({"fid": 40.5, "oracle/shape": 0.25}), name="their_set & more", intervals={"fid": (40, 41)})
    return [evaluation("ours|x", points=ours), evaluation("theirs_50%", points=[theirs])]


def test_csv_has_all_digits_and_the_ends_of_intervals(tmp_path: Path) -> None:
    write_table(two(), tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    points: list[Point] = [one for results in two() for one in results.points]
    assert [row["model"] for row in rows] == ["ours|x", "ours|x", "theirs_50%"]
    for row, one in zip(rows, points, strict=True):
        for name, value in one.metrics.items():
            if name != "kid_std":
                assert float(row[name]) == value
        assert (float(row["fid low"]), float(row["fid high"])) == one.intervals["fid"]
    assert (rows[0]["guidance_scale"], rows[2]["guidance_scale"], rows[2]["oracle/shape"]) == ("1", "", "0.25")


def test_markdown_and_latex_escape_and_embolden(tmp_path: Path) -> None:
    for name in ("t.md", "t.tex"):
        write_table(two(), tmp_path / name)
    head, rule, first, _, last = (tmp_path / "t.md").read_text().splitlines()
    assert head.count("|") == rule.count("|") == first.replace(r"\|", "").count("|")
    assert r"| ours\|x | guidance 1 | 5,000 | 25 | **16.12** [15.12 to 30.00] |" in first
    assert "40.50 [40.00 to 41.00]" in last
    text = (tmp_path / "t.tex").read_text()
    assert r"theirs\_50\% & their\_set \& more & 5,000 & -- & 40.50 {\scriptsize [40.00 to 41.00]}" in text
    assert r"\textbf{16.12}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
    columns = text.splitlines()[0].rpartition("{")[2].rstrip("}")
    assert len(columns) == rows[0].count("&") + 1


def test_what_nobody_knows_of_other_systems_has_no_column(tmp_path: Path) -> None:
    for name in ("t.md", "t.tex"):
        write_table(two()[1:], tmp_path / name)
        assert "NFE" not in (tmp_path / name).read_text()
    columns = (tmp_path / "t.tex").read_text().splitlines()[0].rpartition("{")[2].rstrip("}")
    assert len(columns) == (tmp_path / "t.tex").read_text().splitlines()[2].count("&") + 1
    assert "their_set & more | 5,000 | 40.50" in (tmp_path / "t.md").read_text().replace(r"\_", "_")


def test_what_does_not_compare_or_has_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a table is a file of \.csv, \.md, \.tex, got 't\.xlsx'"):
        write_table(two(), tmp_path / "t.xlsx")
    with pytest.raises(ValueError, match="different protocols"):
        write_table([evaluation("a"), evaluation("b", selection={"sha256": "0"})], tmp_path / "t.csv")


def test_scores_of_each_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = judged(tmp_path / "a", "ours", (1, 3), 2)
    for name in ("s.csv", "s.jsonl"):
        assert main(["evaluate", "scores", str(folder), "-o", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"12 rows in {tmp_path / name}\n"
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    first = {"setting": "guidance-1", "number": 0, "id": "k0", "caption": "caption number 0"}
    assert rows[0] == {**first, "clip_score": 30.0, "broken": 0}
    assert (rows[5]["clip_score"], rows[5]["broken"], rows[7]["clip_score"]) == (None, 1, 33.0)
    table = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [row["clip_score"] for row in table[4:6]] == ["38.0", ""]
    assert main(["evaluate", "table", str(folder), "-o", str(tmp_path / "t.md")]) == 0
    assert main(["evaluate", "scores", str(tmp_path), "-o", str(tmp_path / "s.csv")]) == 1
    assert "no results.json" in capsys.readouterr().err
