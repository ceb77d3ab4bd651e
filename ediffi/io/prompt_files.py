"""Read files of prompts: plain lines, JSON, JSON lines and tables. Every error is a sentence that names file and line.

A byte-order mark and the kind of line end (LF, CR LF, CR) make no difference. A line ends only there: other separators
of Unicode, such as U+2028, are part of a prompt.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ediffi.io import plain_json

JSON = (".json", ".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
FIELDS = {"prompt", "caption"}
"""The fields of a row that say what to paint: a prompt, or a literal caption."""
MARK: Final = re.compile(r"\\([()\\])|(\()|:\s*([^():\s\\]+)\s*\)|(\))")
"""What a prompt may say besides its words: an escaped character, an opening parenthesis, a weight with its closing
parenthesis, as in `(red:1.3)`, or a closing one alone."""


def literal(text: str) -> str:
    r"""A text as a prompt that means these very characters: `a clock (3:45)` becomes `a clock \(3:45\)`.

    Captions of datasets are literal: nobody wrote them with weights in mind. A text without marks stays as it is.
    """
    marks = any(match[1] or match[3] for match in MARK.finditer(text))
    return re.sub(r"([()\\])", r"\\\1", text) if marks else text


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark, as Windows writes it, without that mark; every
    line ends in a line feed. ValueError: another encoding."""
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file {path}")
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line of a file, after its place for error messages: "prompts.txt, line 3". Raises as `read_text`."""
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), start=1):
        yield f"{path}, line {number}", line


def read_rows(path: Path) -> list[tuple[str, Any]]:
    """The rows of a file of prompts, each after its place for error messages: a text, or a value by field.

    The content says what the file is: a JSON list; JSON objects, one a line; a table (CSV) whose first line names the
    columns, one of them "prompt" or "caption", parted by commas, semicolons or tabs; else a text a line, without space
    around it. Blank lines are skipped. ValueError: it is none of these, or its suffix says .json, .jsonl, .csv or .tsv
    and it is broken as such.
    """
    text, suffix = read_text(path), path.suffix.lower()
    if suffix in JSON or text.lstrip().startswith(("[", "{")):
        rows = _json_rows(path, text, must=suffix in JSON)
        if rows is not None:
            return rows
    lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    header = _header(next((line for _, line in lines if line), ""))
    if suffix in TABLES or FIELDS & set(header[0]):
        return _table(path, text, *header)
    return [(where, line) for where, line in lines if line]


def _json_rows(path: Path, text: str, must: bool) -> list[tuple[str, Any]] | None:
    """The rows of JSON, or of JSON lines; None if it is neither and need not be."""
    try:
        content = plain_json.loads(text)
    except ValueError as error:
        problem = error
    else:
        if isinstance(content, list):
            return [(f"{path}, prompt {number}", row) for number, row in enumerate(content, start=1)]
        return [(f"{path}, line 1", content)]
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    try:
        return [(where, parse_json(line, where)) for where, line in lines]
    except ValueError:
        if must and text.lstrip().startswith("["):
            raise ValueError(f"{path}: broken JSON: {problem}") from None
        if must:
            raise
        return None


def _header(line: str) -> tuple[list[str], str]:
    """The columns that a line names, in lower case, and what parts them."""
    delimiter = max(",;\t", key=line.count)
    return [name.strip().strip('"').strip().lower() for name in line.split(delimiter)], delimiter


def _table(path: Path, text: str, columns: list[str], delimiter: str) -> list[tuple[str, Any]]:
    if not FIELDS & set(columns):
        found = ", ".join(columns)[:200]
        raise ValueError(f'{path} must have a column "prompt", or "caption", in its first line; it has {found}')
    rows: list[tuple[str, Any]] = []
    reader = csv.reader(text.lstrip("\n").split("\n"), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(reader):
            where = f"{path}, row {number + 1}"
            if number and any(map(str.strip, row)):
                if len(row) != len(columns):
                    raise ValueError(f"{where} has {len(row)} fields, and its first line {len(columns)}")
                rows.append((where, {name: value.strip() for name, value in zip(columns, row, strict=True)}))
    except csv.Error as error:
        raise ValueError(f"{path} is not a table of prompts: {error}, near row {len(rows) + 2}") from None
    return rows


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text, else a ValueError that begins with `where`."""
    try:
        return plain_json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: broken JSON: {error}") from None


def check_text(value: Any, where: str = "") -> str:
    """`value` if it is a text that can be a prompt, else a ValueError that begins with `where`."""
    start = f"{where}: " if where else ""
    if not isinstance(value, str):
        raise ValueError(f"{start}the prompt must be a text, got {json.dumps(value, default=repr)[:60]}")
    if not value.strip():
        raise ValueError(f"{start}the prompt is empty; describe the image")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{start}the prompt has a lone surrogate (half a character), which no text encoder can read")
    return value
