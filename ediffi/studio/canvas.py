"""The canvas: phrases of the prompt, a brush for each, and where a visitor painted with it."""

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ediffi.diffusion.paint import Region

PALETTE = ("#e5484d", "#0a84ff", "#f5a524", "#2f9e5b", "#8e4ec6", "#e45ba6", "#12a5b5", "#8d6e52")
"""The colours of the brushes; a layout has at most as many phrases."""
MAX_SIDE = 1024
"""The page draws at 512 pixels; much more is not from the page."""
HEAD = "data:image/png;base64,"
KINDS = ("html", "css", "js")
PHRASES = (
    '<div class="sentence" role="group" aria-label="words of the prompt: drag over some to give them a brush"></div>'
    '<div class="legend" role="group" aria-label="brushes"></div>'
)
"""Where the canvas shows the words and the brushes; stands elsewhere on the page, as `#phrases`."""


@dataclass(frozen=True)
class Brush:
    """A phrase of the prompt and the colour it is painted with.

    Args:
        phrase: words of the prompt.
        colour: one of `PALETTE`.
        weight: factor on the paint weight, for this phrase.
        occurrence: which of several places in the prompt is meant, from 1; None for all.

    Raises:
        ValueError: the colour is not in the palette.
    """

    phrase: str
    colour: str
    weight: float = 1.0
    occurrence: int | None = None

    def __post_init__(self) -> None:
        if self.colour not in PALETTE:
            raise ValueError(f"the colour of {self.phrase!r} must be one of {', '.join(PALETTE)}, got {self.colour!r}")

    @property
    def rgb(self) -> tuple[int, ...]:
        """Red, green and blue, 0 to 255."""
        return tuple(bytes.fromhex(self.colour.removeprefix("#")))


@dataclass(frozen=True)
class Layout:
    """What is painted: the brushes, and one picture with all of their colours.

    Args:
        brushes: with different colours.
        image: a square PNG as a data URL, transparent where nothing is painted; empty for nothing.

    Raises:
        ValueError: there are more brushes than colours, or two of one colour.
    """

    brushes: tuple[Brush, ...] = ()
    image: str = ""

    def __post_init__(self) -> None:
        if len(self.brushes) > len(PALETTE):
            raise ValueError(f"{len(self.brushes)} phrases are too many: there are {len(PALETTE)} brush colours")
        if len({brush.colour for brush in self.brushes}) < len(self.brushes):
            raise ValueError("two phrases have the same brush colour; each needs its own")

    @classmethod
    def from_value(cls, value: Any) -> "Layout":
        """The layout of what the page sends: `{brushes: [{phrase, colour, weight, occurrence}], image: data URL}`.

        Raises:
            ValueError: it is not of that form.
        """
        content = value if isinstance(value, Mapping) else {}
        try:
            brushes = tuple(
                Brush(
                    str(entry["phrase"]).strip(),
                    str(entry["colour"]),
                    float(entry.get("weight", 1.0)),
                    None if entry.get("occurrence") is None else int(entry["occurrence"]),
                )
                for entry in content.get("brushes") or []
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the canvas holds no layout: {error!r}") from None
        return cls(brushes, str(content.get("image") or ""))

    def value(self) -> dict[str, Any]:
        """What `from_value` reads, as plain JSON values."""
        entries = [{"phrase": b.phrase, "colour": b.colour, "weight": b.weight} for b in self.brushes]
        for entry, brush in zip(entries, self.brushes, strict=True):
            if brush.occurrence is not None:
                entry["occurrence"] = brush.occurrence
        return {"brushes": entries, "image": self.image}

    @cached_property
    def regions(self) -> list[Region]:
        """A region for each brush that painted something; a pixel belongs to the brush of the nearest colour.

        Raises:
            ValueError: the picture is broken, not square or too large, or a weight is out of range.
        """
        if not self.image or not self.brushes:
            return []
        pixels = _decoded(self.image)
        colours, places = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
        brushes = np.array([brush.rgb for brush in self.brushes])
        distances = ((colours[:, None, :3].astype(np.int64) - brushes) ** 2).sum(-1)
        nearest = np.where(colours[:, 3] >= 128, distances.argmin(-1), -1)
        owner = nearest[places.reshape(pixels.shape[:2])]
        return [
            Region(brush.phrase, torch.from_numpy((owner == index).astype(np.float32)), brush.weight, brush.occurrence)
            for index, brush in enumerate(self.brushes)
            if (owner == index).any()
        ]

    @property
    def unpainted(self) -> list[str]:
        """The phrases whose brush painted nothing."""
        painted = {(region.phrase, region.occurrence) for region in self.regions}
        return [brush.phrase for brush in self.brushes if (brush.phrase, brush.occurrence) not in painted]


def _decoded(url: str) -> UInt8[np.ndarray, "h w 4"]:
    """The RGBA pixels of a PNG data URL."""
    try:
        data = base64.b64decode(url.removeprefix(HEAD), validate=True)
        with Image.open(io.BytesIO(data), formats=["png"]) as image:
            if image.width != image.height or image.width > MAX_SIDE:
                raise ValueError(
                    f"a layout is square and at most {MAX_SIDE} pixels wide, got {image.width}x{image.height}"
                )
            return np.asarray(image.convert("RGBA"))
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture of the layout is broken: {error}") from None


def assets() -> dict[str, Any]:
    """The canvas as `gradio.HTML` takes it: template, style, script and palette."""
    texts = {kind: Path(__file__).with_name(f"canvas.{kind}").read_text(encoding="utf-8") for kind in KINDS}
    return {
        "html_template": texts["html"],
        "css_template": texts["css"],
        "js_on_load": texts["js"],
        "palette": list(PALETTE),
    }
