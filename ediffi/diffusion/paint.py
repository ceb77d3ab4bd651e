"""Paint-with-words (eDiff-I, section 4.3): phrases of the prompt, each with the area of the picture it belongs in.

A layout is a list of `Region`s. In every cross-attention layer the scores of a phrase's tokens, in all text encoders,
are raised inside its area by `w'·log(1+sigma)·max(QKᵀ)`; the layers do that (`ediffi.registry.denoisers.attention`), here the
layout becomes what they read.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from ediffi.io.images import open_image
from ediffi.registry.encoders.spans import occurrences
from ediffi.registry.types import Conditioning, Denoiser, Encoder, Paint, TextEncoder

SIDE = 256
"""Side in pixels that polygons are drawn at; layers take their own resolution from it."""


@dataclass(frozen=True)
class Region:
    """A phrase and where it belongs.

    Args:
        phrase: words of the prompt, as they stand in it (upper and lower case are one).
        mask: [h, w] how much of each pixel belongs to it, 0 to 1; square.
        weight: factor on `w'` for this phrase.
        occurrence: which of several places in the prompt is meant, from 1; None for all.

    Raises:
        ValueError: the phrase or the mask is empty, the mask is not square, or the weight or occurrence out of range.
    """

    phrase: str
    mask: Float[Tensor, "h w"]
    weight: float = 1.0
    occurrence: int | None = None

    def __post_init__(self) -> None:
        if not self.phrase.strip():
            raise ValueError("the phrase of a painted region is empty")
        height, width = self.mask.shape
        if height != width:
            raise ValueError(f"the mask of {self.phrase!r} is {width}x{height}; it must be square, as the pictures are")
        if not (self.mask > 0).any():
            raise ValueError(f"the mask of {self.phrase!r} is empty: nothing of it is white")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of {self.phrase!r} must be at least 0, got {self.weight}")
        if self.occurrence is not None and self.occurrence < 1:
            raise ValueError(f"the occurrence of {self.phrase!r} counts from 1, got {self.occurrence}")


@dataclass(frozen=True)
class PaintWithWords:
    """`w'·log(1+sigma)` becomes the strength of the paint, at the noise level of each call.

    Args:
        denoiser: the denoiser to paint with.
        paint_weight: w', at least 0; 0 takes the paint away.

    Raises:
        ValueError: `paint_weight` is negative.
    """

    denoiser: Denoiser
    paint_weight: float

    def __post_init__(self) -> None:
        check_weight(self.paint_weight)

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Estimate of the clean pictures."""
        if cond.paint is None:
            return self.denoiser(x, sigma, cond)
        strength = cond.paint.strength * self.paint_weight * sigma.log1p()
        paint = replace(cond.paint, strength=strength) if strength.any() else None
        return self.denoiser(x, sigma, replace(cond, paint=paint))


def check_weight(paint_weight: float) -> None:
    """Refuse a `w'` that is none.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not 0 <= paint_weight < float("inf"):
        raise ValueError(f"paint_weight must be at least 0 (0 is off), got {paint_weight}")


def paint(encoders: Mapping[str, Encoder], texts: Sequence[str], layouts: Sequence[Sequence[Region]]) -> Paint:
    """Lay the regions of each text out as what a `Conditioning` carries, with strength 1 where there are any.

    Args:
        encoders: by source; those that are a `TextEncoder` are asked.
        texts: the prompts of a batch, without marks.
        layouts: the regions of each.

    Raises:
        ValueError: a phrase is not in its text, or not as often as `occurrence` says, or no encoder sees it, since the
            text is too long.
    """
    readers = {name: encoder for name, encoder in encoders.items() if isinstance(encoder, TextEncoder)}
    regions = max(1, *(len(layout) for layout in layouts))
    lengths = {name: reader.tokenize(list(texts))[0].shape[1] for name, reader in readers.items()}
    areas = torch.zeros(len(texts), regions, SIDE, SIDE)
    tokens = {name: torch.zeros(len(texts), regions, length) for name, length in lengths.items()}
    for row, (text, layout) in enumerate(zip(texts, layouts, strict=True)):
        for index, region in enumerate(layout):
            areas[row, index] = _resized(region.mask)
            spans = places(text, region)
            found = [(n, list(r.token_range(text, *span))) for n, r in readers.items() for span in spans]
            if not any(positions for _, positions in found):
                raise ValueError(f"the phrase {region.phrase!r} stands where no encoder reads: the prompt is too long")
            for name, positions in found:
                tokens[name][row, index, positions] = region.weight
    return Paint(areas, tokens, torch.tensor([float(bool(layout)) for layout in layouts]))


def places(text: str, region: Region) -> list[tuple[int, int]]:
    """Character ranges of the text that a region's phrase means.

    Raises:
        ValueError: there are none, or not as many as its `occurrence` says.
    """
    spans = occurrences(text, region.phrase)
    if not spans:
        raise ValueError(f"the phrase {region.phrase!r} is not in the prompt {text!r}")
    if region.occurrence is None:
        return spans
    if region.occurrence > len(spans):
        raise ValueError(f"{region.phrase!r} stands {len(spans)} times in the prompt; there is no {region.occurrence}.")
    return [spans[region.occurrence - 1]]


def read_layout(path: Path) -> list[Region]:
    """Read a layout from JSON; files it names are looked for beside it.

    Either a list of `{"phrase": ..., "mask": "FILE.png" or [[x, y], ...], "weight": 1.0, "occurrence": 1}`, where masks
    are white inside, and polygons run from 0 to 1 from the top left; or the colour map of the public Stable Diffusion
    versions, `{"color_map_image": "FILE.png", "color_context": {"(255, 0, 0)": "phrase,weight"}}`.

    Raises:
        FileNotFoundError: the layout or a mask is missing.
        ValueError: something in it is wrong; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict) and {"color_map_image", "color_context"} == content.keys():
        with open_image(path.parent / str(content["color_map_image"]), exif=True) as image:
            regions = colour_regions(image, content["color_context"])
    elif isinstance(content, list):
        regions = [_region(entry, path.parent, f"{path}, region {k}") for k, entry in enumerate(content, start=1)]
    else:
        raise ValueError(f"{path} is no layout: a list of regions, or an object of color_map_image and color_context")
    if not regions:
        raise ValueError(f"{path} paints nothing: its list of regions is empty")
    files = [
        r for r, entry in zip(regions, content, strict=False) if isinstance(entry, dict) and _is_file(entry["mask"])
    ]
    if len({region.mask.shape for region in files}) > 1:
        named = ", ".join(f"{len(region.mask)}x{len(region.mask)} of {region.phrase!r}" for region in files)
        raise ValueError(f"{path}: the masks must be of one size, they are {named}")
    return regions


def colour_regions(image: Image.Image, context: Any) -> list[Region]:
    """The regions of a colour map: one for each colour, all pixels that are exactly of it.

    Args:
        image: the map.
        context: from a colour, `"(r, g, b)"`, to `"phrase,weight"`; the weight may be left out, a further number (some
            versions put a seed there) is not used here and refused.

    Raises:
        ValueError: a colour is none or not in the map, or what it stands for is not a phrase with a weight.
    """
    pixels = np.asarray(image.convert("RGB"))
    if not isinstance(context, Mapping) or not all(isinstance(value, str) for value in context.values()):
        raise ValueError('color_context must be an object such as {"(255, 0, 0)": "red circle,1.0"}')
    regions = []
    for colour, words in context.items():
        mask = (pixels == _colour(colour)).all(-1)
        phrase, comma, weight = words.rpartition(",")
        if not mask.any():
            raise ValueError(f"the colour {colour} of {words!r} is nowhere in the colour map")
        try:
            value = float(weight) if comma else 1.0
        except ValueError:
            phrase, comma, value = words, "", 1.0
        regions.append(Region((phrase if comma else words).strip(), torch.from_numpy(mask).float(), value))
    return regions


def _colour(text: str) -> tuple[int, ...]:
    match = re.fullmatch(r"\(?\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)?", text)
    colour = tuple(map(int, match.groups())) if match else ()
    if not colour or max(colour) > 255:
        raise ValueError(f'{text!r} is not a colour such as "(255, 0, 0)"')
    return colour


def _region(entry: Any, folder: Path, where: str) -> Region:
    known = {"phrase", "mask", "weight", "occurrence"}
    if not isinstance(entry, dict) or not {"phrase", "mask"} <= entry.keys() <= known:
        raise ValueError(f"{where} must have phrase and mask, and may have weight and occurrence, got {_short(entry)}")
    for key, kind in (("phrase", str), ("weight", int | float), ("occurrence", int)):
        if key in entry and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
            raise ValueError(
                f"{where}: {key} must be a {'text' if kind is str else 'number'}, got {_short(entry[key])}"
            )
    try:
        mask = _mask(entry["mask"], folder)
        return Region(entry["phrase"], mask, float(entry.get("weight", 1.0)), entry.get("occurrence"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _mask(content: Any, folder: Path) -> Float[Tensor, "h w"]:
    if _is_file(content):
        with open_image(folder / content, exif=True) as image:
            return torch.from_numpy(np.asarray(image.convert("L"), np.float32) / 255)
    return polygon(content)


def _is_file(mask: Any) -> bool:
    return isinstance(mask, str)


def polygon(corners: Any, side: int = SIDE) -> Float[Tensor, "side side"]:
    """The mask of a polygon with corners [[x, y], ...] in 0 to 1 from the top left.

    Raises:
        ValueError: there are fewer than three corners, or one of them is not in the picture.
    """
    points = np.array(corners, dtype=np.float64) if _is_points(corners) else np.empty(0)
    if len(points) < 3 or not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"a polygon has at least three corners [x, y] in 0 to 1, got {_short(corners)}")
    scale = 4  # drawn four times as large and averaged, for smooth edges
    large = Image.new("L", (side * scale, side * scale))
    ImageDraw.Draw(large).polygon([tuple(point) for point in points * (side * scale - 1)], fill=255)
    return torch.from_numpy(np.asarray(large.reduce(scale), np.float32) / 255)


def _is_points(corners: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return isinstance(corners, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(number, point)) for point in corners
    )


def _resized(mask: Float[Tensor, "h w"]) -> Float[Tensor, "side side"]:
    size = (SIDE, SIDE)
    if mask.shape == size:
        return mask
    return torch.nn.functional.interpolate(mask[None, None], size, mode="bilinear", antialias=True)[0, 0]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
