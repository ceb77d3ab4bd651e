"""Read files of prompts: plain lines, JSON and JSON lines. Every error is one sentence that names the file and line.

A byte-order mark and the kind of line end (LF, CR LF, CR) make no difference. A line ends only there: other separators
of Unicode, such as U+2028, are part of a prompt.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

WEIGHTED: Final = re.compile(r"\\([()\\])|\(((?:\\.|[^()\\])+):\s*([^():\s]+)\s*\)")
"""What a prompt says besides its words: an escaped character, or words with their weight, as in `(red:1.3)`."""


def literal(text: str) -> str:
    r"""A text as a prompt that means these very characters: `a clock (3:45)` becomes `a clock \(3:45\)`.

    Captions of datasets are literal: nobody wrote them with weights in mind. A text without marks stays as it is.
    """
    return re.sub(r"([()\\])", r"\\\1", text) if WEIGHTED.search(text) else text


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte-order mark; every line ends in a line feed. ValueError: not UTF-8."""
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line of a file, after its place for error messages: "prompts.txt, line 3". Raises as `read_text`."""
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), start=1):
        yield f"{path}, line {number}", line


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text, else a ValueError that begins with `where`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: broken JSON: {error}") from None


def check_text(value: Any, where: str) -> str:
    """`value` if it is a text that can be a prompt, else a ValueError that begins with `where`."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: the prompt must be a text, got {json.dumps(value)[:60]}")
    if not value.strip():
        raise ValueError(f"{where}: the prompt is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where}: the prompt has a lone surrogate (half a character), which no text encoder can read")
    return value
