"""Numbers for other programs and for papers: a table of evaluations as CSV, Markdown or LaTeX, and scores by image."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ediffi.evaluation.naming import measured_name
from ediffi.evaluation.report.stored import StoredEvaluation
from ediffi.evaluation.report.tables import Cell, Column, main_table, measure_tables
from ediffi.evaluation.results import Point, Results, check_comparable
from ediffi.io.files import replace

LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--", "±": r"$\pm$"}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
MINUS = re.compile(r"(?<!\w)-(?=\d)")

Rows = Sequence[tuple[str, Point, Sequence[Cell]]]
"""Model, point and numbers of each row."""


def write_table(several: Sequence[Results], file: Path) -> None:
    """Write a row for each setting of evaluations of one dataset; the suffix is `.csv`, `.md` or `.tex`.

    CSV has all digits, and the ends of intervals in columns of their own. Markdown and LaTeX have the digits and
    intervals of the page, and its best numbers in bold. ValueError: another suffix, or evaluations that do not compare.
    """
    if file.suffix not in WRITERS:
        raise ValueError(f"a table is a file of {', '.join(WRITERS)}, got {file.name!r}")
    check_comparable(several)
    tables = [main_table(several), *measure_tables(several)]
    columns = [
        (f"{table.title}: {c.title}" if table.title else measured_name(several[0], c.name), c)
        for table in tables
        for c in table.columns
    ]
    rows: list[tuple[str, Point, list[Cell]]] = []
    for number, (model, settings) in enumerate(tables[0].groups):
        for k, (point, _) in enumerate(settings):
            rows.append((model, point, [cell for table in tables for cell in table.groups[number][1][k][1]]))
    replace(file, WRITERS[file.suffix](columns, rows, _note(several)))


def write_scores(one: StoredEvaluation, file: Path) -> int:
    """Write a row for each image of each setting, with its caption and what was measured of it; `.csv` or `.jsonl`.

    Returns the number of rows. ValueError: another suffix. FileNotFoundError: the folder has no rows of a setting.
    """
    if file.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"scores are a file of .csv, .jsonl, got {file.name!r}")
    rows = list(one.table())
    if file.suffix == ".csv":
        text = _csv(list(rows[0]) if rows else [], ([*row.values()] for row in rows))
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace(file, text)
    return len(rows)


def _note(several: Sequence[Results]) -> str:
    """What stands in brackets and in bold, in a sentence; empty if there are no intervals."""
    known = several[0].protocol.get("intervals") or {}
    if not known or not any(point.intervals for results in several for point in results.points):
        return ""
    return (
        f"In brackets: {known['level']:.0%} intervals ({known['method']}). Bold: the best, and what their intervals "
        "do not tell from it."
    )


def _as_csv(columns: Sequence[tuple[str, Column]], rows: Rows, note: str) -> str:
    ends = [f"{column.name}{end}" for _, column in columns for end in ("", " low", " high")]
    lines = []
    for model, point, _ in rows:
        values: list[Any] = [model, point.name, point.guidance_scale, point.count, point.nfe]
        for _, column in columns:
            values += [point.metric(column.name), *(point.interval(column.name) or (None, None))]
        lines.append(values)
    return _csv(["model", "setting", "guidance_scale", "images", "nfe", *ends], lines)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()


def _as_markdown(columns: Sequence[tuple[str, Column]], rows: Rows, note: str) -> str:
    def escaped(text: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)

    head, lines = _texts(columns, rows, escaped, "**{}**", " [{}]")
    names = _named(rows)
    rule = [*["---"] * names, *["---:"] * (len(head) - names)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines)) + (f"\n{note}\n" if note else "")


def _as_latex(columns: Sequence[tuple[str, Column]], rows: Rows, note: str) -> str:
    def escaped(text: str) -> str:
        return MINUS.sub("$-$", "".join(LATEX.get(letter, letter) for letter in text))

    head, lines = _texts(columns, rows, escaped, r"\textbf{{{}}}", r" {{\scriptsize [{}]}}")
    body = [f"{' & '.join(line)} \\\\" for line in lines]
    names = _named(rows)
    start = [f"% {note}"] if note else []
    start += [
        rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(head) - names)}}}",
        r"\hline",
        f"{' & '.join(head)} \\\\",
        r"\hline",
    ]
    return "\n".join([*start, *body, r"\hline", r"\end{tabular}", ""])


def _texts(
    columns: Sequence[tuple[str, Column]], rows: Rows, escaped: Callable[[str], str], bold: str, beside: str
) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of a table for people."""
    counted = any(point.nfe is not None for _, point, _ in rows)  # nobody knows it of other systems' images
    names = _named(rows)
    head = [
        *("Model", "Setting")[:names],
        "Images",
        *(["NFE"] * counted),
        *(f"{title} {column.arrow}" for title, column in columns),
    ]
    lines = []
    for model, point, cells in rows:
        numbers = []
        for cell in cells:
            text = bold.format(escaped(cell.text)) if cell.best else escaped(cell.text)
            numbers.append(text + (beside.format(escaped(cell.spread)) if cell.spread else ""))
        known = [*(model, point.title)[:names], f"{point.count:,}"]
        known += ["–" if point.nfe is None else f"{point.nfe:g}"] * counted
        lines.append([*map(escaped, known), *numbers])
    return list(map(escaped, head)), lines


def _named(rows: Rows) -> int:
    """How many columns name a row: model and setting, or one where all settings have their model's name."""
    return 1 + any(point.title != model for model, point, _ in rows)


WRITERS: Final[Mapping[str, Callable[[Sequence[tuple[str, Column]], Rows, str], str]]] = {
    ".csv": _as_csv,
    ".md": _as_markdown,
    ".tex": _as_latex,
}
