"""From words to tokens: where a phrase occurs in a text, and which tokens cover it."""

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Offsets = list[tuple[int, int]]
"""[start, end) of each token in the text, in some measure of length; (k, k) for special tokens, which cover nothing."""

MARK = "▁"
"""White space in sentencepiece's tokens."""

_SPACELESS = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "HANGUL", "HALFWIDTH HANGUL"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
)
"""Scripts without space between words, or that bind particles to them, by how their characters' names begin."""

_JOINER = "\u200d"
_SKIN_TONES = "🏻🏼🏽🏾🏿"


def occurrences(text: str, phrase: str) -> list[tuple[int, int]]:
    """Character ranges of a phrase in a text, in order, without overlaps.

    Ignores case ("STRASSE" is "straße"), runs of white space, and whether letters are composed. Only whole words match:
    "cat" is not in "cathedral", nor "cafe" in "café". Our choice for scripts without space between words: there a match
    may begin and end between any two characters, but not before a vowel sign.
    """
    folded, places = _fold(text)
    wanted = _fold(phrase.strip())[0]
    found: list[tuple[int, int]] = []
    low = folded.find(wanted) if wanted else -1
    while low >= 0:
        high = low + len(wanted)
        start, end = places[low], places[high]
        # casefold can make several characters of one ("ß" is "ss"): a match must not begin or end inside of them
        inside = (low > 0 and places[low - 1] == start) or places[high - 1] == end
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
    """Offsets of a sentencepiece tokenizer, without white space.

    A piece that is only white space covers nothing; some tokenizers let it cover the letter after it.
    """
    starts = (end - len(text[start:end].lstrip()) for start, end in offsets)
    return [
        (start if piece.strip(MARK) else end, end)
        for piece, start, (_, end) in zip(pieces, starts, offsets, strict=True)
    ]


def safe_split(text: str, index: int, step: int, length: Callable[[str], int]) -> int:
    """The nearest index, from `index` in steps of `step`, where splitting a text does not change its cleaned length.

    A tokenizer's cleaning replaces some substrings as a whole: an entity ("&amp;"), a letter and its accent, letters in
    a wrong encoding. `length` is the length of a part of the text after cleaning.
    """
    whole = length(text)
    while 0 < index < len(text) and length(text[:index]) + length(text[index:]) != whole:
        index += step
    return index


def first_split(text: str, low: int, length: Callable[[str], int]) -> int:
    """The first index where `safe_split` can split a text with a cleaned length of at least `low` before it."""
    index = bisect_left(range(len(text)), low, key=lambda index: length(text[:index]))
    while length(text[: (index := safe_split(text, index, 1, length))]) < low:  # "&am" is longer than "&amp;"
        index += 1
    return index


def decode_tokens(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token of a transformers tokenizer as readable text; a token of white space only is returned as it is."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [str(tokenizer.decode([token])).strip() or str(name) for token, name in zip(ids, names, strict=True)]


def _fold(text: str) -> tuple[str, list[int]]:
    """A text normalised for comparison, and for each index of the result, its end too, the index in the text."""
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
    """Whether a word can end before `text[index]` or begin there; invisible characters are ignored."""
    if index in (0, len(text)):
        return True
    if text[index] in _SKIN_TONES or _kind(text[index]) == "M" or _JOINER in text[index - 1 : index + 1]:
        return False
    before = next((one for one in reversed(text[:index]) if _kind(one) not in "MF"), " ")
    after = next((one for one in text[index:] if _kind(one) != "F"), " ")
    spaceless = any(unicodedata.name(one, "").startswith(_SPACELESS) for one in (before, after))
    return spaceless or not (_kind(before) in "LMN" and _kind(after) in "LMN")


def _kind(character: str) -> str:
    """L for letters, M for marks on them, N for numbers, F for invisible characters, another letter for the rest."""
    category = unicodedata.category(character)
    return "F" if category == "Cf" else category[0]
