"""The words for a scene: a few, a sentence, or several; which things, how they stand, background and style."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from emojiworld.scene import Scene
from emojiworld.world import STYLES, bare

Length = Literal["short", "medium", "long"]

LENGTHS: Final[tuple[Length, ...]] = ("short", "medium", "long")
LENGTH_SHARES: Final = (0.4, 0.35, 0.25)
STYLE_SHARE: Final = 0.7  # of captions that name the style
BACKGROUND_SHARE: Final = 0.75  # of the medium and long captions that name the background
SYNONYM_SHARE: Final = 0.4  # of mentions of a thing that has synonyms
OTHER_STYLE_NAME: Final = 0.3  # of captions that name the style by its second name
OPPOSITE: Final = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIDE: Final = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}


@dataclass(frozen=True)
class Caption:
    """A text, what it calls each thing ("a kitty"), and whether it names style and background."""

    text: str
    mentions: tuple[str, ...]
    length: Length
    style_name: str | None
    names_background: bool

    def spans(self, thing: int) -> list[list[int]]:
        """Where the text names a thing, without its article: [start, end] in characters."""
        pattern = rf"\b{re.escape(bare(self.mentions[thing]))}\b"
        return [list(found.span()) for found in re.finditer(pattern, self.text, re.IGNORECASE)]


def describe(
    scene: Scene,
    rng: np.random.Generator,
    length: Length | None = None,
    names_style: bool | None = None,
    mentions: Sequence[str] | None = None,
) -> Caption:
    """A random caption of a scene; what is not None is not drawn."""
    length = length or LENGTHS[rng.choice(3, p=LENGTH_SHARES)]
    if names_style is None:
        names_style = bool(rng.random() < STYLE_SHARE)
    style = STYLES[scene.style][int(rng.random() < OTHER_STYLE_NAME)] if names_style else None
    words = tuple(mentions or (_mention(concept.name, concept.synonyms, rng) for concept in scene.concepts))
    background = scene.background if length != "short" and rng.random() < BACKGROUND_SHARE else None
    write = {"short": _short, "medium": _medium, "long": _long}[length]
    return Caption(write(scene, words, style, background, rng), words, length, style, background is not None)


def describe_style(scene: Scene, rng: np.random.Generator) -> Caption:
    """A caption that tells the style alone, such as "a drawing in noto style"."""
    style = STYLES[scene.style][int(rng.random() < OTHER_STYLE_NAME)]
    names = tuple(concept.name for concept in scene.concepts)
    return Caption(f"{_pick(rng, 'a picture', 'a drawing', 'an emoji')} in {style} style", names, "short", style, False)


def facts(scene: Scene, caption: Caption) -> dict[str, Any]:
    """The ground truth of a picture and its caption, as plain JSON; boxes are fractions of the side."""
    things = [
        {
            "hexcode": concept.hexcode,
            "name": bare(concept.name),
            "mention": mention,
            "synonym": mention != concept.name,
            "spans": caption.spans(index),
            "box": list(box),
        }
        for index, (concept, mention, box) in enumerate(zip(scene.concepts, caption.mentions, scene.boxes, strict=True))
    ]
    return {
        "style": scene.style,
        "style_name": caption.style_name,
        "background": scene.background,
        "background_named": caption.names_background,
        "relation": scene.relation,
        "length": caption.length,
        "held_out": scene.held_out,
        "things": things,
    }


def _mention(name: str, synonyms: Sequence[str], rng: np.random.Generator) -> str:
    if synonyms and rng.random() < SYNONYM_SHARE:
        return synonyms[rng.integers(len(synonyms))]
    return name


def _short(scene: Scene, words: Sequence[str], style: str | None, background: str | None, rng: Any) -> str:
    return _things(scene, words) + (f", {style} style" if style else "")


def _medium(scene: Scene, words: Sequence[str], style: str | None, background: str | None, rng: Any) -> str:
    things = _things(scene, words) + (f" on a {background} background" if background else "")
    opening = _pick(rng, "", "a picture of ", "a drawing of ", "an emoji of ")
    if style is None:
        return opening + things
    closing = _pick(rng, f", {style} style", f" in {style} style", f", drawn in the style of {style}")
    return opening + things + closing


def _long(scene: Scene, words: Sequence[str], style: str | None, background: str | None, rng: Any) -> str:
    sentences = [_pick(rng, "This picture shows ", "Here we see ", "We can see ") + _list(words)]
    definite = [f"the {bare(word)}" for word in words]
    if scene.relation in SIDE:
        first, second = (f"{thing} {_is(word)}" for thing, word in zip(definite, words, strict=True))
        sides = SIDE[scene.relation], SIDE[OPPOSITE[scene.relation]]
        related = f"{first} {scene.relation} {definite[1]}"
        sentences.append(_pick(rng, f"{first} {sides[0]} and {second} {sides[1]}", related))
    elif scene.relation == "alone":
        sentences += [_pick(rng, f"{definite[0]} {_is(words[0])} large", "Nothing else is in the picture")]
    else:
        sentences += [f"{definite[-1]} {_is(words[-1])} {_where(scene)}"]
    if background:
        sentences.append(_pick(rng, f"The background is {background}", f"Behind is a plain {background} background"))
    if style:
        sentences.append(_pick(rng, f"It is drawn in {style} style", f"The style is {style}"))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _things(scene: Scene, words: Sequence[str]) -> str:
    return f"{words[0]} {scene.relation} {words[1]}" if scene.relation in SIDE else _list(words)


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _where(scene: Scene) -> str:
    """Where the last thing stands, from its box."""
    left, top, right, bottom = scene.boxes[-1]
    x, y = (left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5
    if abs(x) > abs(y):
        return "on the right" if x > 0 else "on the left"
    return "at the bottom" if y > 0 else "at the top"


def _is(mention: str) -> str:
    """ "are" after a plural, which has no article and ends in s."""
    return "are" if mention == bare(mention) and mention.endswith(("s", "dice")) else "is"


def _pick(rng: np.random.Generator, *texts: str) -> str:
    return texts[rng.integers(len(texts))]
