"""From words to tokens: where a phrase stands in a text, and which tokens cover a stretch of it."""

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Offsets = list[tuple[int, int]]
"""What each token covers, [start, end) in some measure of the text; (k, k) for special ones, which cover nothing."""

MARK = "▁"
"""How sentencepiece writes white space."""

_SPACELESS = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "HANGUL", "HALFWIDTH HANGUL"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
)
"""Scripts, by how their characters' names begin, that put no space between words or bind particles to them."""

_JOINER = "\u200d"
_SKIN_TONES = "🏻🏼🏽🏾🏿"


def occurrences(text: str, phrase: str) -> list[tuple[int, int]]:
    """Where a phrase stands in a text, as character ranges in order that do not overlap.

    Upper and lower case are one ("STRASSE" is "straße"), as are runs of white space, and composed and decomposed
    letters. Only whole words count: "cat" is not in "cathedral", nor "cafe" in "café". Our choice for scripts that put
    no space between words: there a phrase may begin and end between any two characters, though not before a vowel sign.
    """
    folded, places = _fold(text)
    wanted = _fold(phrase.strip())[0]
    found: list[tuple[int, int]] = []
    low = folded.find(wanted) if wanted else -1
    while low >= 0:
        high = low + len(wanted)
        start, end = places[low], places[high]
        inside = (low > 0 and places[low - 1] == start) or places[high - 1] == end  # of what one character became
        whole = not inside and _parted(text, start) and _parted(text, end)
        if whole:
            found.append((start, end))
        low = folded.find(wanted, high if whole else low + 1)
    return found


def covering(offsets: Iterable[tuple[int, int]], low: int, high: int) -> range:
    """Positions of the tokens that cover some of [low, high), from the first to the last; `range(0, 0)` if none."""
    found = [index for index, (start, end) in enumerate(offsets) if max(low, start) < min(high, end)]
    return range(found[0], found[-1] + 1) if found else range(0, 0)


def without_space(text: str, pieces: Sequence[str], offsets: Offsets) -> Offsets:
    """A sentencepiece tokenizer's offsets, with no white space in them.

    A piece that is only the mark of white space covers nothing; some tokenizers say that it covers the letter after it.
    """
    starts = (end - len(text[start:end].lstrip()) for start, end in offsets)
    return [
        (start if piece.strip(MARK) else end, end)
        for piece, start, (_, end) in zip(pieces, starts, offsets, strict=True)
    ]


def seam(text: str, index: int, step: int, length: Callable[[str], int]) -> int:
    """The nearest place, going from `index` in steps of `step`, where a text may be cut without changing its length.

    That is not so within what a tokenizer's cleaning turns into something else: an entity ("&amp;"), a letter and its
    accent, letters in a wrong encoding. `length` is how long a part of the text is when cleaned.
    """
    whole = length(text)
    while 0 < index < len(text) and length(text[:index]) + length(text[index:]) != whole:
        index += step
    return index


def reached(text: str, low: int, length: Callable[[str], int]) -> int:
    """The first place where a text may be cut (see `seam`) with a length of at least `low` before it."""
    index = bisect_left(range(len(text)), low, key=lambda index: length(text[:index]))
    while length(text[: (index := seam(text, index, 1, length))]) < low:  # "&am" is longer than "&amp;"
        index += 1
    return index


def readable(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token of a transformers tokenizer reads, without its marks of white space and of the ends of words.

    A token that is nothing but such a mark is shown as it is.
    """
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [str(tokenizer.decode([token])).strip() or str(name) for token, name in zip(ids, names, strict=True)]


def _fold(text: str) -> tuple[str, list[int]]:
    """A text made comparable, and for each character of the result, and its end, where in the text that comes from."""
    folded: list[str] = []
    places: list[int] = []
    for index, character in enumerate(text):
        space = character.isspace()
        if space and index and text[index - 1].isspace():
            continue
        plain = " " if space else unicodedata.normalize("NFD", unicodedata.normalize("NFD", character).casefold())
        folded.append(plain)
        places += [index] * len(plain)
    return "".join(folded), [*places, len(text)]


def _parted(text: str, index: int) -> bool:
    """Whether a word may end before `text[index]`, or begin there; what is not seen is looked through."""
    if index in (0, len(text)):
        return True
    if text[index] in _SKIN_TONES or _kind(text[index]) == "M" or _JOINER in text[index - 1 : index + 1]:
        return False
    before = next((one for one in reversed(text[:index]) if _kind(one) not in "MF"), " ")
    after = next((one for one in text[index:] if _kind(one) != "F"), " ")
    return not (_in_word(before) and _in_word(after)) or _spaceless(before) or _spaceless(after)


def _kind(character: str) -> str:
    """L for letters, M for marks on them, N for numbers, F for what is not seen; some other letter for the rest."""
    category = unicodedata.category(character)
    return "F" if category == "Cf" else category[0]


def _in_word(character: str) -> bool:
    return _kind(character) in "LMN"


def _spaceless(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_SPACELESS)
