"""What there is: concepts with their names, artists' styles, backgrounds, and what training never sees."""

import csv
import difflib
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

CONCEPTS: Final = Path(__file__).with_name("concepts.csv")

STYLES: Final[Mapping[str, tuple[str, ...]]] = {
    "fluent-3d": ("fluent 3d", "glossy 3d"),
    "fluent-mono": ("fluent mono", "black and white"),
    "twemoji": ("twemoji", "twitter emoji"),
    "noto": ("noto", "google emoji"),
    "firefox": ("firefox", "firefox emoji"),
    "streamline": ("streamline", "cartoon outline"),
    "blob": ("blob", "old google emoji"),
    "fluent-flat": ("fluent flat", "flat microsoft emoji"),
    "emojione": ("emojione", "emoji one"),
    "openmoji": ("openmoji", "open emoji"),
    "emojione-v1": ("emojione v1", "old emoji one"),
}
"""The artists' sets, and how captions call their styles: the usual name first."""

SIX_STYLES: Final = tuple(STYLES)[:6]
"""Styles that differ to the eye and to a small classifier."""

ALL_STYLES: Final = ("noto", "blob", "twemoji", "fluent-flat", "fluent-3d", "emojione", "firefox", "streamline")
ALL_GROUPS: Final = ("animals-nature", "food-drink", "travel-places", "activities", "objects", "smileys-emotion")

BACKGROUNDS: Final[Mapping[str, tuple[int, int, int]]] = {
    "white": (255, 255, 255),
    "gray": (200, 200, 204),
    "light blue": (178, 216, 250),
    "mint green": (180, 236, 200),
    "pink": (255, 190, 208),
    "pale yellow": (255, 240, 170),
    "lavender": (214, 200, 250),
    "peach": (255, 214, 180),
    "dark blue": (30, 42, 92),
}
DARK: Final = "dark blue"  # no background for black drawings


@dataclass(frozen=True)
class Concept:
    """A thing with a name, all with their articles ("a fox"); no caption contains a word of `unseen`."""

    hexcode: str
    group: str
    name: str
    synonyms: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """The concepts, the styles, and which styles have a drawing of each concept."""

    sprites: Path
    concepts: tuple[Concept, ...]
    styles: tuple[str, ...]
    drawn: Mapping[str, tuple[str, ...]]  # styles by hexcode

    def having(self, style: str) -> tuple[Concept, ...]:
        """The concepts that a style has a drawing of."""
        return tuple(concept for concept in self.concepts if style in self.drawn[concept.hexcode])

    def held_out(self) -> dict[str, object]:
        """What no training scene has, as plain JSON."""
        codes = [concept.hexcode for concept in self.concepts]
        return {
            "pairs": [[code, style] for code in codes for style in self.drawn[code] if pair_held_out(code, style)],
            "together": [[a, b] for i, a in enumerate(codes) for b in codes[i + 1 :] if never_together(a, b)],
            "words": {concept.hexcode: list(concept.unseen) for concept in self.concepts if concept.unseen},
        }


def pair_held_out(hexcode: str, style: str) -> bool:
    """Whether training never sees this concept in this style: one pair in 12, by hash.

    Remainder 10 holds out 14 to 17 drawings of each of the six styles; other remainders are less even.
    """
    return _hash(f"{hexcode}/{style}") % 12 == 10


def never_together(first: str, second: str) -> bool:
    """Whether training never sees these two concepts in one scene: one pair of concepts in 10, by hash."""
    return _hash("+".join(sorted((first, second)))) % 10 == 0


def read_concepts(path: Path = CONCEPTS) -> tuple[Concept, ...]:
    """The concepts of a CSV file with the columns hexcode, group, name, synonyms and unseen, the last two by ";"."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return tuple(
            Concept(row["hexcode"], row["group"], row["name"], _words(row["synonyms"]), _words(row["unseen"]))
            for row in rows
        )
    except (KeyError, AttributeError):
        raise ValueError(f"{path} must have the columns hexcode, group, name, synonyms, unseen") from None


def open_world(
    sprites: Path, concepts: str | None = None, styles: Sequence[str] | None = None, everything: bool = False
) -> World:
    """The world of a folder of sprites (STYLE/HEXCODE.webp).

    `concepts` is a number, so many from the top of the list, or names with commas between. `everything` takes all
    drawings of eight colour styles in place of the list. What has no drawing is left out, and told. ValueError or
    FileNotFoundError: unknown name, no sprites.
    """
    styles = tuple(styles or (ALL_STYLES if everything else SIX_STYLES))
    _check_once(styles, "style")
    for style in styles:
        if style not in STYLES:
            raise ValueError(f"no style {style!r}; there are {', '.join(STYLES)}")
        if not any((sprites / style).glob("*.webp")):
            raise FileNotFoundError(f"no drawings in {sprites / style}; make the sprites first (README.md says how)")
    listed = _all_concepts(sprites, styles) if everything else read_concepts()
    if concepts is not None:
        listed = _chosen(listed, concepts)
    drawn = {
        one.hexcode: tuple(style for style in styles if (sprites / style / f"{one.hexcode}.webp").exists())
        for one in listed
    }
    if missing := [bare(one.name) for one in listed if not drawn[one.hexcode]]:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        log.warning("left out, no drawing in these styles: %d of %d things (%s)", len(missing), len(listed), names)
    if not (sprites / "NOTICE").is_file():
        log.warning("%s has no NOTICE, which `sprites` writes last: it may be incomplete", sprites)
    return World(sprites, tuple(one for one in listed if drawn[one.hexcode]), styles, drawn)


def _chosen(listed: tuple[Concept, ...], wanted: str) -> tuple[Concept, ...]:
    if wanted.isdigit():
        if not 2 <= int(wanted) <= len(listed):
            raise ValueError(f"concepts must be from 2 to {len(listed)}, got {wanted}")
        return listed[: int(wanted)]
    by_name = {bare(synonym): one for one in listed for synonym in one.synonyms}
    by_name |= {bare(one.name): one for one in listed}
    names = [bare(name) for name in names_in(wanted)]
    for name in names:
        if name not in by_name:
            near = " or ".join(difflib.get_close_matches(name, by_name))
            raise ValueError(f"no concept {name!r}; {f'did you mean {near}?' if near else f'see {CONCEPTS.name}'}")
    chosen = [by_name[name] for name in names]
    _check_once([bare(one.name) for one in chosen], "concept")
    if len(chosen) < 2:
        raise ValueError(f"at least 2 concepts are needed, got {wanted!r}")
    return tuple(chosen)


def names_in(text: str) -> list[str]:
    """The names in a text, with commas between."""
    return [name.strip() for name in text.split(",")]


def _check_once(names: Sequence[str], what: str) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the {what} {twice[0]!r} is named twice")


def _all_concepts(sprites: Path, styles: Sequence[str]) -> tuple[Concept, ...]:
    """A concept for each drawing: as the list names it, or else by its Unicode label with an article."""
    known = {concept.hexcode: concept for concept in read_concepts()}
    found: dict[str, Concept] = {}
    for style in styles:
        for path in sorted((sprites / style).glob("*.json")):
            if path.stem in found:
                continue
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["group"] in ALL_GROUPS:
                named = Concept(path.stem, facts["group"], _with_article(facts["label"].lower()))
                found[path.stem] = known.get(path.stem, named)
    return tuple(found[code] for code in sorted(found))


def _with_article(label: str) -> str:
    """A label with "a" or "an"; a plural has none."""
    if re.search(r"[^s]s$", label) and not label.endswith(("us", "is")):
        return label
    return f"{'an' if label[0] in 'aeiou' and not re.match('uni|use|eu|one', label) else 'a'} {label}"


def bare(name: str) -> str:
    """A name without its article."""
    return re.sub(r"^(an?|the) ", "", name)


def _words(cell: str) -> tuple[str, ...]:
    return tuple(word for word in cell.split(";") if word)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
