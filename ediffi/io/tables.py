"""Tables from outside: .csv and .tsv whose first line names the columns, and JSON lines. Every error names the line."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ediffi.io.prompt_files import parse_json, read_lines, read_text

DELIMITERS: Final = {".csv": ",;\t", ".tsv": "\t"}
"""What may part the values of a line, by suffix; the first line tells which of them does."""
LINES: Final = (".jsonl", ".ndjson")

Row = tuple[str, dict[str, Any]]
"""A row by column, after its place for error messages: "captions.csv, line 3"."""


def read_table(path: Path) -> Iterator[Row]:
    """The rows of a table of one of these suffixes. ValueError: it is broken, or has more values than columns."""
    return _objects(path) if path.suffix.lower() in LINES else _values(path)


def _values(path: Path) -> Iterator[Row]:
    text = read_text(path)
    delimiter = max(DELIMITERS[path.suffix.lower()], key=text.partition("\n")[0].count)
    if "\0" in text:
        raise ValueError(f"{path} is not UTF-8 text: it has zero bytes, as UTF-16 without a byte-order mark has")
    reader, done = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 0
    try:
        names = reader.fieldnames or ()
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{path} has two columns {twice[0]!r}")
        done = reader.line_num
        for row in reader:
            done = reader.line_num
            if extra := row.get(None):
                advice = f"quote a caption that contains {delimiter!r}"
                raise ValueError(
                    f"{path}, line {reader.line_num} has more values than columns, such as {extra[0]!r:.60}; {advice}"
                )
            yield f"{path}, line {reader.line_num}", {str(name): value for name, value in row.items()}
    except csv.Error as error:
        where = f"{path}, the row that begins in line {done + 1}"
        raise ValueError(f"{where}, is broken ({error}); is a quote not closed?") from None


def _objects(path: Path) -> Iterator[Row]:
    for where, line in read_lines(path):
        if line.strip():
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise ValueError(f"{where} must be an object")
            yield where, row
