"""Prompts: their check, the weights of words, `(words:1.3)`, and files of prompts."""

import re
from dataclasses import dataclass
from pathlib import Path

from ediffi.io import prompt_files

MAX_PROMPT = 5000
"""Longest prompt in characters, far beyond the length of any encoder."""
MAX_WEIGHT = 10.0

_ESCAPED = re.compile(r"\\([()\\])")


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

    Other parentheses are text, and so are `\\(` and `\\)` everywhere. ValueError: the prompt is empty or longer than
    `MAX_PROMPT` characters, or a weight is not in [0, 10].
    """
    _check(prompt)
    text, weights, last = "", [], 0
    for match in prompt_files.WEIGHTED.finditer(prompt):
        text += prompt[last : match.start()]
        last = match.end()
        if match[1] is not None:
            text += match[1]
            continue
        try:
            weight = float(match[3])
        except ValueError:  # "(see: below)" is text
            text += match[0]
            continue
        if not 0 <= weight <= MAX_WEIGHT:
            raise ValueError(f"the weight of a word must be from 0 to {MAX_WEIGHT:g}, got {match[3]!r}")
        words = _ESCAPED.sub(r"\1", match[2])
        weights.append(Weighted(len(text), len(text) + len(words), weight))
        text += words
    _check(text := text + prompt[last:])
    return Prompt(text, tuple(weights))


def _check(text: str) -> None:
    if not text.strip():
        raise ValueError("the prompt is empty; describe the image")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(text)} characters; at most {MAX_PROMPT} are allowed")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: each line of a .txt, the field "prompt" in each line of a .jsonl.

    A line of a .jsonl without a prompt may have "caption": a literal text, whose parentheses are no weights.
    ValueError names the line that is not UTF-8, not JSON or no prompt.
    """
    prompts = []
    for where, line in prompt_files.read_lines(path):
        if not line.strip():
            continue
        text: object = line.strip()
        if path.suffix == ".jsonl":
            row = prompt_files.parse_json(line, where)
            if not isinstance(row, dict) or not row.keys() & {"prompt", "caption"}:
                raise ValueError(f'{where}: a line must be an object with the field "prompt", or "caption"')
            text = row["prompt"] if "prompt" in row else row["caption"]
            if "prompt" not in row and isinstance(text, str):
                text = prompt_files.literal(text)
        prompt = prompt_files.check_text(text, where)
        try:
            parse(prompt)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path} has no prompts; write one a line")
    return prompts
