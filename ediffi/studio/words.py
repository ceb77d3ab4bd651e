"""The words of a picture: where the base stage looked for each of them while it painted, early, midway and late."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from ediffi.pipeline.attention_maps import NULL, Attention, attention_maps
from ediffi.pipeline.cascade import Cascade, Progress
from ediffi.pipeline.stage import Stage, Steering
from ediffi.registry.random import generators
from ediffi.registry.types import Conditioning
from ediffi.studio.order import Order
from ediffi.studio.sheet import data_url
from ediffi.studio.shelf import Shelf

SIDE = 96
"""Pixels of a word's tile."""
WHEN = ("all steps", "early", "midway", "late")
HEAT = np.array([[24, 22, 60], [124, 38, 120], [222, 82, 84], [250, 160, 60], [255, 244, 176]], np.float32)
"""From not looked at to looked at most."""
OWN = 0.72
"""How much of a tile's colour is heat; the rest is the picture in gray."""


@dataclass(frozen=True)
class Word:
    """A word and where it was looked for.

    Attributes:
        text: the word.
        share: of all attention.
        tiles: the picture under the word's heat, for each of `WHEN`.
    """

    text: str
    share: float
    tiles: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Words:
    """The words of a picture, in the order of the prompt.

    Attributes:
        words: each once, though it may stand several times.
        null: the share of attention that went to no word.
    """

    words: tuple[Word, ...]
    null: float

    def page(self) -> str:
        """As HTML: a tile for each word, and a choice of when."""
        choices = "".join(
            f'<input type="radio" name="when" id="when{k}"{" checked" * (k == 0)}><label for="when{k}">{name}</label>'
            for k, name in enumerate(WHEN)
        )
        tiles = "".join(
            f"<figure>{''.join(_image(tile, word.text) for tile in word.tiles)}"
            f"<figcaption>{html.escape(word.text)}<em>{100 * word.share:.0f} %</em></figcaption></figure>"
            for word in self.words
        )
        rest = f"<p>{100 * self.null:.0f} % of the attention went to the null token: to no word at all.</p>"
        return f'<div class="words">{choices}<div class="tiles">{tiles}</div>{rest}</div>'


def watch(
    cascade: Cascade, order: Order, shelf: Shelf, index: int, image: Image.Image, progress: Progress | None = None
) -> Words:
    """Sample the base stage as an order says, and see where its words go.

    Args:
        cascade: the model.
        order: what was painted.
        shelf: where its style picture stands.
        index: number of the picture among those of the order.
        image: the picture, to be seen under the heat.
        progress: called after every step.

    Raises:
        ValueError: the order cannot be painted, or the base stage has no cross-attention.
    """
    order.check(cascade)
    base = _told(cascade, order, order.options(shelf), index)
    attention = attention_maps(Cascade(cascade.name, cascade.encoders, [base]), order.prompt, progress=progress)
    gray = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    texts = [text for text in attention.words() if text != NULL and any(map(str.isalnum, text)) and text[0] != "<"]
    null = attention.shares().get(NULL)
    return Words(tuple(_word(attention, text, gray) for text in texts), 0.0 if null is None else float(null.mean()))


@dataclass(frozen=True)
class _Told(Stage):
    """A base stage that is told more than the prompt that `attention_maps` samples with."""

    told: tuple[Conditioning, Steering, int, int] | None = None

    def __call__(self, cond: Conditioning, *args: Any, **options: Any) -> Any:
        """Sample the picture that was told."""
        assert self.told is not None
        cond, steering, seed, index = self.told
        return super().__call__(cond, generators(seed, [index]), **{**options, "steering": steering})


def _told(cascade: Cascade, order: Order, options: Mapping[str, Any], index: int) -> _Told:
    """The base stage with what `Cascade.__call__` would tell it."""
    base, negative, style = cascade.stages[0], options["negative_prompt"], options["style"]
    steering = Steering(None if negative is None else cascade.encode([negative]), 1.0 if style is None else style.scale)
    cond = cascade.encode([order.prompt], style, options["paint"])
    told = (cond, steering, order.seed, index)
    return _Told(base.name, base.resolution, base.denoiser, order.plan(cascade)[0], base.aug_level, told)


def _word(attention: Attention, text: str, gray: Float[np.ndarray, "h w"]) -> Word:
    maps = attention.of(text).numpy()
    thirds = [maps, *np.array_split(maps, 3)]
    means = [part.mean(0) if len(part) else maps.mean(0) for part in thirds]
    return Word(text, float(maps.mean()), tuple(_tile(mean, gray) for mean in means))


def _tile(heat: Float[np.ndarray, "h w"], gray: Float[np.ndarray, "H W"]) -> Image.Image:
    """The gray picture under the heat, from none to the most that this word got."""
    scaled = Image.fromarray((heat / max(float(heat.max()), 1e-9)).astype(np.float32))
    level = np.asarray(scaled.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 1) * (len(HEAT) - 1)
    colours = np.stack([np.interp(level, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)], -1)
    return Image.fromarray((OWN * colours + (1 - OWN) * gray[..., None]).round().astype(np.uint8))


def _image(tile: Image.Image, text: str) -> str:
    return f'<img src="{data_url(tile)}" alt="where {html.escape(text)} was looked for">'
