"""Where the base stage looked for each word of the prompt while it sampled an image: early, midway and late."""

import html
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from ediffi.pipeline.attention_maps import NULL, Attention, attention_maps
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.sampling import Progress
from ediffi.studio.views import data_url

SIDE = 96
"""Pixels of a word's tile."""
PERIODS = ("all steps", "early", "midway", "late")
HEAT = np.array([[24, 22, 60], [124, 38, 120], [222, 82, 84], [250, 160, 60], [255, 244, 176]], np.float32)
"""Colours from no attention to the word's maximum."""
OPACITY = 0.72
"""Of the heat over the gray image."""


@dataclass(frozen=True)
class WordAttention:
    """A word, its share of all attention, and its heat map over the image for each of `PERIODS`."""

    text: str
    share: float
    tiles: tuple[Image.Image, ...]


@dataclass(frozen=True)
class AttentionView:
    """The words of a prompt in order, each once, and the share of the null token."""

    words: tuple[WordAttention, ...]
    null: float

    def html(self) -> str:
        """A tile for each word, and a choice of the period."""
        choices = "".join(
            f'<input type="radio" name="period" id="p{k}"{" checked" * (k == 0)}><label for="p{k}">{name}</label>'
            for k, name in enumerate(PERIODS)
        )
        tiles = ""
        for word in self.words:
            text = html.escape(word.text)
            shown = "".join(f'<img src="{data_url(tile)}" alt="attention of {text}">' for tile in word.tiles)
            tiles += f"<figure>{shown}<figcaption>{text}<em>{100 * word.share:.0f} %</em></figcaption></figure>"
        rest = f"<p>{100 * self.null:.0f} % of the attention went to the null token, which stands for no word.</p>"
        return f'<div class="maps">{choices}<div class="tiles">{tiles}</div>{rest}</div>'


def attention_view(
    cascade: Cascade, prompt: str, options: SamplingOptions, image: Image.Image, progress: Progress | None = None
) -> AttentionView:
    """Sample the base stage and record its attention; `image` is shown in gray under the heat maps."""
    attention = attention_maps(cascade, prompt, options, progress=progress)
    gray = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    texts = [text for text in attention.words() if text != NULL and any(map(str.isalnum, text)) and text[0] != "<"]
    null = attention.shares().get(NULL)
    words = tuple(_word(attention, text, gray) for text in texts)
    return AttentionView(words, 0.0 if null is None else float(null.mean()))


def _word(attention: Attention, text: str, gray: Float[np.ndarray, "h w"]) -> WordAttention:
    maps = attention.of(text).numpy()
    thirds = [maps, *np.array_split(maps, 3)]
    means = [part.mean(0) if len(part) else maps.mean(0) for part in thirds]
    return WordAttention(text, float(maps.mean()), tuple(_tile(mean, gray) for mean in means))


def _tile(heat: Float[np.ndarray, "h w"], gray: Float[np.ndarray, "H W"]) -> Image.Image:
    # Each word is scaled to its own maximum: a small word gets little attention, and its place still shows.
    scaled = Image.fromarray((heat / max(float(heat.max()), 1e-9)).astype(np.float32))
    level = np.asarray(scaled.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 1) * (len(HEAT) - 1)
    colours = np.stack([np.interp(level, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)], -1)
    return Image.fromarray((OPACITY * colours + (1 - OPACITY) * gray[..., None]).round().astype(np.uint8))
