"""The layout of an image as drawn on the page: phrases of the prompt, a brush colour for each, and one drawing."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ediffi.diffusion.layout import Region, nearest_colors
from ediffi.io import png
from ediffi.io.image_input import read_rgba
from ediffi.io.images import color

PALETTE = ("#e5484d", "#0a84ff", "#f5a524", "#2f9e5b", "#8e4ec6", "#e45ba6", "#12a5b5", "#8d6e52")
"""Brush colours; also the largest number of phrases in a layout."""
MAX_SIDE, SIDE = 1024, 512
"""Largest side of a drawing in pixels, and the side at which the page draws."""
FAINTEST = 8 / 255
"""Fainter pixels of a drawing belong to no phrase: browsers keep too little of their colour to tell whose they are."""
WEB = Path(__file__).with_name("web")
SCRIPTS = ("state", "words", "weights", "history", "brushes", "view", "strokes", "tools", "keys")
"""Files of the canvas in the browser, in the order in which they run, in one scope."""
PHRASES = (
    '<div class="sentence" role="group" aria-label="words of the prompt: drag over some to give them a brush"></div>'
    '<div class="weigh" role="group" aria-label="weight of the words that are selected in the prompt">'
    '<span>weight of selected words</span><button type="button" data-weigh="-1" aria-label="lighter">−</button>'
    '<button type="button" data-weigh="1" aria-label="heavier">+</button></div>'
    '<div class="legend" role="group" aria-label="brushes"></div>'
)
"""HTML that canvas.js fills with the words of the prompt and the brushes; it finds it by the id `phrases`."""


@dataclass(frozen=True)
class Brush:
    """A phrase of the prompt and the colour it is drawn with; ValueError if the colour is not in `PALETTE`."""

    phrase: str
    colour: str
    weight: float = 1.0  # factor on the paint weight
    occurrence: int | None = None  # which occurrence in the prompt, from 1; None for all

    def __post_init__(self) -> None:
        if self.colour not in PALETTE:
            raise ValueError(f"the colour of {self.phrase!r} must be one of {', '.join(PALETTE)}, got {self.colour!r}")


@dataclass(frozen=True)
class CanvasLayout:
    """Brushes, and a drawing with their colours; ValueError for too many brushes, or two of one colour."""

    brushes: tuple[Brush, ...] = ()
    image: str = ""  # a square PNG as a data URL, as opaque as a pixel belongs to its phrase; empty for no drawing

    def __post_init__(self) -> None:
        if len(self.brushes) > len(PALETTE):
            raise ValueError(f"{len(self.brushes)} phrases are too many: there are {len(PALETTE)} brush colours")
        if len({brush.colour for brush in self.brushes}) < len(self.brushes):
            raise ValueError("two phrases have the same brush colour; each needs its own")

    @classmethod
    def from_json(cls, value: Any) -> "CanvasLayout":
        """The layout in `{brushes: [{phrase, colour, weight, occurrence}], image: data URL}`; empty for no mapping."""
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
            raise ValueError(f"the canvas sent a broken layout: {error!r}") from None
        return cls(brushes, drawing(content.get("image"), "the drawing of the layout"))

    @classmethod
    def of_regions(cls, regions: Sequence[Region]) -> "CanvasLayout":
        """The layout in which each pixel belongs to the region whose mask is the largest there, the later of equals.

        ValueError: there are more than brushes.
        """
        if len(regions) > len(PALETTE):
            raise ValueError(f"the layout has {len(regions)} regions; the page has {len(PALETTE)} brushes")
        brushes = [Brush(r.phrase, c, r.weight, r.occurrence) for r, c in zip(regions, PALETTE, strict=False)]
        levels = levels_of(regions)
        owner = len(regions) - 1 - levels[::-1].argmax(0)
        colours = np.array([color(brush.colour) for brush in brushes], np.uint8)
        opacity = np.rint(levels.max(0) * 255).astype(np.uint8)
        pixels = np.where(opacity[..., None] > 0, np.dstack([colours[owner], opacity]), np.uint8(0))
        return cls(tuple(brushes), png.data_url(Image.fromarray(pixels)))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        fields = [dataclasses.asdict(brush) for brush in self.brushes]
        brushes = [{name: value for name, value in brush.items() if value is not None} for brush in fields]
        return {"brushes": brushes, "image": self.image}

    @cached_property
    def regions(self) -> list[Region]:
        """A region for each brush that drew something; ValueError if the drawing is broken, not square or too large."""
        if not self.image or not self.brushes:
            return []
        pixels = decode(self.image, "the drawing of the layout")
        levels = pixels[..., 3].astype(np.float32) / 255
        # A browser rounds the colours of faint pixels, so that a pixel belongs to the brush of the nearest colour.
        opaque = np.concatenate([pixels[..., :3], np.full_like(pixels[..., 3:], 255)], -1)
        owner = nearest_colors(opaque, [color(brush.colour) for brush in self.brushes])
        owner[levels < FAINTEST] = -1
        return [
            Region(brush.phrase, np.where(owner == index, levels, np.float32(0)), brush.weight, brush.occurrence)
            for index, brush in enumerate(self.brushes)
            if (owner == index).any()
        ]

    @property
    def unpainted(self) -> list[str]:
        """The phrases whose brush drew nothing."""
        painted = {(region.phrase, region.occurrence) for region in self.regions}
        return [brush.phrase for brush in self.brushes if (brush.phrase, brush.occurrence) not in painted]


def levels_of(regions: Sequence[Region]) -> Float[np.ndarray, "n side side"]:
    """The masks of regions at the one size of their drawing, soft ones too."""
    side = max(len(region.mask) for region in regions)
    side = side if side <= MAX_SIDE else SIDE
    masks = (Image.fromarray(region.mask.numpy().astype(np.float32)) for region in regions)
    return np.stack([np.asarray(mask.resize((side, side), Image.Resampling.NEAREST)) for mask in masks])


def drawing(url: Any, name: str) -> str:
    """A drawing that the page sent or an image stored; ValueError unless it is a PNG data URL, or nothing.

    The browser loads it, so it must not be another address.
    """
    if url and not str(url).startswith(png.DATA_URL):
        raise ValueError(f"{name} is broken: it must begin with {png.DATA_URL!r}")
    return str(url or "")


def mask_at(url: str, side: int) -> Image.Image | None:
    """What was marked to be repainted, as a mask for an image of this side: its opacity; None if nothing was.

    ValueError: as `decode`.
    """
    if not url:
        return None
    opacity = Image.fromarray(decode(url, "the mask")[..., 3])
    return opacity if opacity.width == side else opacity.resize((side, side), Image.Resampling.BOX)


def mask_url(levels: Float[Tensor, "h w"]) -> str:
    """A mask as the page has it: a data URL of a PNG that is opaque where the image is repainted."""
    opacity = Image.fromarray((levels.numpy() * 255).round().astype(np.uint8))
    shown = Image.new("RGBA", (SIDE, SIDE), "white")
    kind = Image.Resampling.BOX if opacity.width >= SIDE else Image.Resampling.NEAREST
    shown.putalpha(opacity.resize((SIDE, SIDE), kind))
    return png.data_url(shown)


def decode(url: str, name: str) -> UInt8[np.ndarray, "h w 4"]:
    """The pixels of a PNG data URL; ValueError if it is broken, not square or too large."""
    pixels = read_rgba(png.from_data_url(url, name), name)
    height, width = pixels.shape[:2]
    if width != height or width > MAX_SIDE:
        raise ValueError(f"{name} must be square and at most {MAX_SIDE} pixels wide, got {width}x{height}")
    return pixels


def script(name: str) -> str:
    """A script of the page."""
    return (WEB / f"{name}.js").read_text("utf-8")


def assets() -> dict[str, Any]:
    """The canvas as arguments of `gradio.HTML`."""
    html, css = ((WEB / f"board.{kind}").read_text("utf-8") for kind in ("html", "css"))
    scripts = "\n".join(script(f"board/{name}") for name in SCRIPTS)
    board = f"(async () => {{\n{scripts}\n}})();"
    return {"html_template": html, "css_template": css, "js_on_load": board, "palette": list(PALETTE)}
