"""Prompts: their check, the weights of words, `(words:1.3)`, and files of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ediffi.io import prompt_files

MAX_PROMPT = 5000
"""Longest prompt in characters, far beyond the length of any encoder."""
MAX_WEIGHT = 10.0


@dataclass(frozen=True)
class Weighted:
    """Characters [start, end) of a prompt's text, and their weight in the attention: 1 is usual, 0 none."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Prompt:
    """A prompt's text without the marks of weights, and the weights."""

    text: str
    weights: tuple[Weighted, ...] = ()


def parse(prompt: str) -> Prompt:
    r"""Parse a prompt: `a (red:1.3) circle` is the text `a red circle`, in which "red" has the weight 1.3.

    Weights nest and multiply, as in A1111: in `((red:1.2) circle:1.5)` "red" has 1.8, "circle" 1.5. Parentheses without
    a weight are text, unlike there, and so are `\\(` and `\\)` everywhere. ValueError: the prompt is empty, longer than
    `MAX_PROMPT` characters or no Unicode text, or a weight is not in [0, 10].
    """
    _check(prompt)
    pieces: list[tuple[str, float]] = []  # the text, cut where weights may begin or end
    opened: list[int] = []  # the pieces that are opening parentheses without their closing ones
    last = 0
    for match in prompt_files.MARK.finditer(prompt):
        pieces.append((prompt[last : match.start()], 1.0))
        last = match.end()
        weight = _weight(match[3]) if match[3] and opened else None
        if weight is not None and any(text for text, _ in pieces[opened[-1] + 1 :]):
            first = opened.pop()
            pieces[first:] = [("", 1.0), *((text, _product(weight, w)) for text, w in pieces[first + 1 :])]
            continue
        if match[2]:
            opened.append(len(pieces))
        elif not match[1] and opened:  # closed without a weight
            opened.pop()
        pieces.append((match[1] or match[0], 1.0))
    pieces.append((prompt[last:], 1.0))
    return _joined(pieces)


def _joined(pieces: Sequence[tuple[str, float]]) -> Prompt:
    """The text of pieces, and the weights other than 1, neighbours of one weight together, without space around."""
    text, weights = "", []
    for weight, group in groupby((piece for piece in pieces if piece[0]), key=lambda piece: piece[1]):
        words = "".join(part for part, _ in group)
        start = len(text) + len(words) - len(words.lstrip())
        if weight != 1 and words.strip():
            weights.append(Weighted(start, start + len(words.strip()), weight))
        text += words
    _check(text)
    return Prompt(text, tuple(weights))


def _weight(text: str) -> float | None:
    """The weight that a text is; None for other text, as in "(see: below)"."""
    try:
        weight = float(text)
    except ValueError:
        return None
    if not 0 <= weight <= MAX_WEIGHT:
        literal = r"write \( and \) for parentheses that are text"
        raise ValueError(f"the weight of a word must be from 0 to {MAX_WEIGHT:g}, got {text!r}; {literal}")
    return weight


def _product(outer: float, inner: float) -> float:
    weight = round(outer * inner, 10)  # 1.1 in 1.1 is 1.21
    if weight > MAX_WEIGHT:
        raise ValueError(f"nested weights multiply to {weight:g}; a word's must be from 0 to {MAX_WEIGHT:g}")
    return weight


def _check(text: str) -> None:
    prompt_files.check_text(text)
    if len(text) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(text)} characters; at most {MAX_PROMPT} are allowed")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: a text a line, JSON, JSON lines or a table with a column "prompt", see `read_rows`.

    A row without a prompt may have "caption": a literal text, whose parentheses are no weights. ValueError names the
    line that cannot be read or is no prompt.
    """
    prompts = []
    for where, row in prompt_files.read_rows(path):
        text = row
        if not isinstance(row, str):
            if not isinstance(row, dict) or not row.keys() & prompt_files.FIELDS:
                raise ValueError(f'{where}: a row must be an object with the field "prompt", or "caption"')
            text = row.get("prompt", row.get("caption"))
        prompt = prompt_files.check_text(text, where)
        if isinstance(row, dict) and "prompt" not in row:
            prompt = prompt_files.literal(prompt)
        try:
            parse(prompt)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path} has no prompts; write one a line")
    return prompts
