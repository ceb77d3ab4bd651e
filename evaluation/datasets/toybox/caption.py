"""Captions: a scene in words, short or long, and the closed vocabulary they are made of.

A caption always states the number of objects and every object's shape and colour. It may leave out the style, the
background, the sizes and the layout; `Caption.named` says which of these four it states. An image may show anything
where the caption states nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np

from ediffi.evaluation.datasets.toybox import phrases
from ediffi.evaluation.datasets.toybox.scene import COLOURS, COUNTS, SHAPES, STYLES, Object, Scene, Split, sample_scene

Length = Literal["short", "long"]

NAMEABLE: Final[dict[str, float]] = {"style": 0.7, "background": 0.8, "size": 0.8, "layout": 1.0}
"""The probability that a caption names each optional attribute. Size: of all objects or of none. Layout: always named
in long captions and for a single object."""
LONG_WORDS: Final = (35, 65)  # fewest and most words of a long caption, punctuation not counted


@dataclass(frozen=True)
class Caption:
    """A text, and which of "style", "background", "size", "layout" it names."""

    text: str
    named: frozenset[str]


def caption(
    scene: Scene, rng: np.random.Generator, length: Length = "short", naming: Mapping[str, float] = NAMEABLE
) -> Caption:
    """A random wording of a scene, in lower case: one phrase of 3 to 40 words, or sentences of 35 to 65 words in all.

    `naming` has the probability of naming each optional attribute.
    """
    if length not in ("short", "long"):
        raise ValueError(f"length is {length!r}; allowed: 'short', 'long'")
    named = frozenset(name for name, share in naming.items() if share >= 1 or rng.random() < share)
    if length == "long" or len(scene.objects) == 1:
        named |= {"layout"}
    write = _short if length == "short" else _long
    return Caption(write(scene, named, rng), named)


def prompts(seed: int, count: int, split: Split = "test", length: Length = "short") -> list[tuple[Scene, Caption]]:
    """Scenes with captions, with 1, 2, 3, 1, 2, 3, ... objects: a pure function of its arguments.

    Pair i depends on (seed, split, length, i) only, so a longer list begins with the shorter one.
    """
    if count < 0:
        raise ValueError(f"count is {count}; allowed: 0 or more")
    pairs = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        scene = sample_scene(rng, split, COUNTS[index % len(COUNTS)])
        pairs.append((scene, caption(scene, rng, length)))
    return pairs


@cache
def vocabulary() -> tuple[str, ...]:
    """Every token a caption can have, sorted: words, and "," and "." as tokens."""
    tables = [value for name, value in vars(phrases).items() if name.isupper()]
    texts: list[str] = [*SHAPES, *COLOURS, *STYLES, "a an"]
    while tables:
        if isinstance(table := tables.pop(), str):
            texts.append(re.sub(r"{\w+}", " ", table))
        else:
            tables.extend(table.values() if isinstance(table, dict) else table)
    return tuple(sorted({token for text in texts for token in tokens(text)}))


def tokens(text: str) -> list[str]:
    """The words and punctuation marks of a text, lower case, in order."""
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]", text.lower())


def _short(scene: Scene, named: frozenset[str], rng: np.random.Generator) -> str:
    things = [_noun_phrase(thing, named, rng) for thing in scene.objects]
    relations = phrases.RELATIONS[scene.layout]
    if "layout" not in named:
        relations = phrases.UNPLACED[len(things)]
        things = [things[k] for k in rng.permutation(len(things))]
    text = _fill(_choice(relations, rng), **dict(zip("abc", things, strict=False)))
    style = _choice(phrases.STYLED, rng) if "style" in named else "{x}"
    background = _choice(phrases.ON_BACKGROUND, rng) if "background" in named else "{x}"
    backgrounds = phrases.BACKGROUND_WORDS[scene.background]
    # "a striped picture of X on a pink background" but "X on a pink background, striped": a prefix goes on first.
    for template in (style, background) if style.endswith("{x}") else (background, style):
        text = _fill(template, x=text, style=scene.style, background=_choice(backgrounds, rng))
    return text


def _long(scene: Scene, named: frozenset[str], rng: np.random.Generator) -> str:
    sentences = [_choice(phrases.COUNT_SENTENCES[len(scene.objects)], rng)]
    for thing, slot in zip(scene.objects, scene.slots, strict=True):
        template, where = _choice(phrases.PLACE_SENTENCES, rng), phrases.PLACES[slot.where]
        sentences.append(_fill(template, where=where, x=_noun_phrase(thing, named, rng)))
    if "background" in named:
        template = _choice(phrases.BACKGROUND_SENTENCES, rng)
        sentences.append(_fill(template, background=_choice(phrases.BACKGROUND_WORDS[scene.background], rng)))
    if "style" in named:
        sentences.append(_choice(phrases.STYLE_SENTENCES[scene.style], rng))
    fillers = _fillers(scene, rng)
    target = rng.integers(LONG_WORDS[0], LONG_WORDS[1] - 12)
    while fillers and sum(len(sentence.split()) for sentence in sentences) < target:
        sentences.append(fillers.pop())
    # The count usually opens the caption; everything else comes in any order.
    first = 1 if rng.random() < 0.7 else 0
    return " ".join(sentences[:first] + [sentences[first + k] for k in rng.permutation(len(sentences) - first)])


def _fillers(scene: Scene, rng: np.random.Generator) -> list[str]:
    """True sentences that add nothing new, shuffled."""
    definite = dict(zip("abc", (f"the {thing.colour} {thing.shape}" for thing in scene.objects), strict=False))
    sentences = [_fill(template, **definite) for template in phrases.RELATION_SENTENCES[scene.layout]]
    for thing, slot in zip(scene.objects, scene.slots, strict=True):
        words = {"where": phrases.PLACES[slot.where], "colour": thing.colour, "shape": thing.shape}
        sentences += [_fill(template, **words) for template in phrases.REGION_SENTENCES]
    if scene.layout == "alone":
        sentences += phrases.ALONE_SENTENCES
    return [sentences[k] for k in rng.permutation(len(sentences))]


def _noun_phrase(thing: Object, named: frozenset[str], rng: np.random.Generator) -> str:
    template = phrases.NOUN_PHRASES[int(rng.random() < 0.2)]
    size = _choice(phrases.SIZE_WORDS[thing.size], rng) if "size" in named else ""
    return _fill(template, size=size, colour=thing.colour, shape=thing.shape)


def _choice(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(0, len(options))]


def _fill(template: str, **words: str) -> str:
    """The template with its words put in; empty words vanish, and `{an}` agrees with what follows it."""
    text = re.sub(r" +", " ", template.format(an="{an}", **words))
    return re.sub(r"{an} (?=([a-z]))", lambda match: "an " if match[1] in "aeiou" else "a ", text)
