"""Prompt files of the compositional benchmarks, read as their own scripts read them."""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STYLES = ("anime", "concept-art", "paintings", "photo")
"""HPSv2's styles, in the order of its own list of prompt files (tgxs002/HPSv2, hpsv2/utils.py)."""

COLUMNS = ("Prompt", "Category", "Challenge", "Note")
"""Columns of google-research/parti, PartiPrompts.tsv."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Prompt:
    """A prompt of a benchmark.

    Attributes:
        text: as it stands in the file, white space included.
        metadata: what else the file says of it, plain JSON values.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_geneval(path: Path) -> list[Prompt]:
    """GenEval's prompts: an object a line with "prompt", "tag" and "include" (djghosh13/geneval, prompts/).

    The metadata is the whole object, which `evaluation/evaluate_images.py` wants back.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no such object, or there are none; the message names it.
    """
    prompts = []
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {number}"
        row = _json(line, where)
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("tag"), str)
            or not _is_list_of_objects(row.get("include"))
        ):
            raise ValueError(f'{where}: not an object with "prompt", "tag", and a list "include" of classes and counts')
        prompts.append(Prompt(_text(row.get("prompt"), where), row))
    return _some(prompts, path)


def read_t2i_compbench(path: Path) -> list[Prompt]:
    """T2I-CompBench's prompts: one a line, up to the first tab if there is one.

    Karine-Huang/T2I-CompBench, GORS_finetune/inference_eval.py; the files are in examples/dataset/, one a category.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is empty, or there are none.
    """
    lines = _read(path).splitlines()
    texts = [_text(line.split("\t")[0], f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return _some([Prompt(text, {"category": path.stem}) for text in texts], path)


def read_hpsv2(path: Path) -> list[Prompt]:
    """HPSv2's prompts: a JSON list of texts a style (tgxs002/HPSv2, hpsv2/evaluation.py).

    Args:
        path: `anime.json`, `concept-art.json`, `paintings.json` or `photo.json`; or the folder with these four, which
            are then read in this order.

    Raises:
        FileNotFoundError: there is no such file, or a folder lacks one.
        ValueError: it is named after no style, is no list of texts, or a text is empty.
    """
    if path.is_dir():
        return [prompt for style in STYLES for prompt in read_hpsv2(path / f"{style}.json")]
    if path.suffix != ".json" or path.stem not in STYLES:
        raise ValueError(f"{path} must be named after its style: {', '.join(f'{style}.json' for style in STYLES)}")
    texts = _json(_read(path), str(path))
    if not isinstance(texts, list):
        raise ValueError(f"{path} holds no list of prompts")
    rows = [(_text(text, f"{path}, prompt {row}"), row) for row, text in enumerate(texts)]
    return _some([Prompt(text, {"style": path.stem, "row": row}) for text, row in rows], path)


def read_partiprompts(path: Path) -> list[Prompt]:
    """PartiPrompts: tab-separated, a header of `COLUMNS`, and quotes that are text (google-research/parti).

    Quotes must not be unfolded: a prompt that begins with a quoted word would lose its quotes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the columns are others, a line has too few or too many, a prompt is empty, or a field was quoted by
            a spreadsheet.
    """
    try:
        rows = list(csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE))
    except csv.Error as error:
        raise ValueError(f"{path} is no table of prompts: {error}") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        found = ", ".join(rows[0]) if rows else "none"
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, separated by tabs; it has {found[:200]}")
    prompts = []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, line {number}"
        if len(row) != len(COLUMNS):
            raise ValueError(f"{where}: {len(row)} fields, and there must be {len(COLUMNS)}")
        if any('""' in value and _QUOTED.fullmatch(value) for value in row):
            raise ValueError(f"{where}: quoted as spreadsheets do; in the published file quotes are text")
        text, category, challenge, note = row
        prompts.append(Prompt(_text(text, where), {"category": category, "challenge": challenge, "note": note}))
    return _some(prompts, path)


def _read(path: Path) -> str:
    """A text file, with or without a byte-order mark; line ends of any kind become one kind."""
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}") from None


def _lines(path: Path) -> list[str]:
    """Lines as files have them; other separators that Unicode knows are text."""
    return _read(path).removesuffix("\n").split("\n")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: broken JSON: {error}") from None


def _text(value: Any, where: str) -> str:
    """Refuse what can be no prompt."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: the prompt must be a text, got {json.dumps(value)[:60]}")
    if not value.strip():
        raise ValueError(f"{where}: the prompt is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where}: the prompt has half a character (a lone surrogate), so it cannot be written")
    return value


def _is_list_of_objects(value: Any) -> bool:
    """Is it what GenEval asks to be in a picture: classes with counts?"""
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("class"), str) and isinstance(item.get("count"), int)
        for item in value
    )


def _some(prompts: list[Prompt], path: Path) -> list[Prompt]:
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts
