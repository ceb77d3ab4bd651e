"""From words to tokens: where a phrase stands in a text, and which tokens cover a stretch of it."""

import re
import unicodedata
from collections.abc import Iterable

Offsets = list[tuple[int, int]]
"""What each token covers, [start, end) in some measure of the text; (k, k) for special ones, which cover nothing."""

_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts, by how their characters' names begin, that put no space between words or bind particles to them."""


def occurrences(text: str, phrase: str) -> list[tuple[int, int]]:
    """Where a phrase stands in a text, as character ranges in order; upper and lower case, and runs of space, are one.

    Only whole words count: "cat" is not in "cathedral". Our choice for scripts that put no space between words: there a
    phrase may begin and end anywhere.
    """
    words = phrase.split()
    if not words:
        return []
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    return [span for span in _matches(pattern, text) if _parted(text, span[0]) and _parted(text, span[1])]


def covering(offsets: Iterable[tuple[int, int]], low: int, high: int) -> range:
    """Positions of the tokens that cover some of [low, high), from the first to the last; `range(0, 0)` if none."""
    found = [index for index, (start, end) in enumerate(offsets) if max(low, start) < min(high, end)]
    return range(found[0], found[-1] + 1) if found else range(0, 0)


def without_space(text: str, offsets: Offsets) -> Offsets:
    """The offsets without the white space that tokens begin with (sentencepiece's mark for it is part of them)."""
    return [(end - len(text[start:end].lstrip()), end) for start, end in offsets]


def _matches(pattern: re.Pattern[str], text: str) -> Iterable[tuple[int, int]]:
    """Like `finditer`, but a match that is none after all does not hide one that overlaps it."""
    position = 0
    while match := pattern.search(text, position):
        yield match.span()
        whole = _parted(text, match.start()) and _parted(text, match.end())
        position = match.end() if whole else match.start() + 1


def _parted(text: str, index: int) -> bool:
    """Whether a word may end before `text[index]`, or begin there."""
    if index in (0, len(text)):
        return True
    before, after = text[index - 1], text[index]
    if unicodedata.combining(after):
        return False
    return not (_in_word(before) and _in_word(after)) or _spaceless(before) or _spaceless(after)


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _spaceless(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_SPACELESS)
