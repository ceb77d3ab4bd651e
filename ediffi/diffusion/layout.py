"""Layouts of paint-with-words: the regions of a prompt's phrases, and the JSON files and colour maps they come from."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from ediffi.io.images import open_image

SIDE = 256
"""Side in pixels of the mask of a polygon."""


@dataclass(frozen=True)
class Region:
    """A phrase and its area of the image.

    Args:
        phrase: words of the prompt; upper and lower case are equal.
        mask: [h, w] how much of each pixel belongs to the phrase, 0 to 1; square.
        weight: factor on w' for this phrase.
        occurrence: which occurrence of the phrase in the prompt is meant, from 1; None for all.
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
            raise ValueError(f"the mask of {self.phrase!r} is {width}x{height}; it must be square, as images are")
        if not (self.mask > 0).any():
            raise ValueError(f"the mask of {self.phrase!r} is empty: it is 0 everywhere")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of {self.phrase!r} must be at least 0, got {self.weight}")
        if self.occurrence is not None and self.occurrence < 1:
            raise ValueError(f"the occurrence of {self.phrase!r} counts from 1, got {self.occurrence}")


def read_layout(path: Path) -> list[Region]:
    """Read a layout from JSON; the mask files that it names are relative to it.

    Either a list of `{"phrase": ..., "mask": "FILE.png" or [[x, y], ...], "weight": 1.0, "occurrence": 1}`, where masks
    are white inside and polygons have corners from 0 to 1 from the top left; or a colour map as in the public Stable
    Diffusion versions, `{"color_map_image": "FILE.png", "color_context": {"(255, 0, 0)": "phrase,weight"}}`.

    Raises:
        FileNotFoundError: the layout or a mask is missing.
        ValueError: a part of the layout is wrong; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict) and content.keys() == {"color_map_image", "color_context"}:
        with open_image(path.parent / str(content["color_map_image"]), exif=True) as image:
            regions = _colour_regions(image, content["color_context"])
    elif isinstance(content, list):
        regions = [_region(entry, path.parent, f"{path}, region {k}") for k, entry in enumerate(content, start=1)]
        files = [region for region, entry in zip(regions, content, strict=True) if isinstance(entry["mask"], str)]
        if len({len(region.mask) for region in files}) > 1:
            found = ", ".join(f"{len(region.mask)}x{len(region.mask)} of {region.phrase!r}" for region in files)
            raise ValueError(f"{path}: the masks must be of one size, they are {found}")
    else:
        raise ValueError(f"{path} is no layout: a list of regions, or an object of color_map_image and color_context")
    if not regions:
        raise ValueError(f"{path} is a layout without regions")
    return regions


def polygon(corners: Any, side: int = SIDE) -> Float[Tensor, "side side"]:
    """The mask of a polygon with corners [[x, y], ...] from 0 to 1 from the top left; ValueError for fewer than 3."""
    points = np.array(corners, dtype=np.float64) if _is_points(corners) else np.empty(0)
    if len(points) < 3 or not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"a polygon has at least three corners [x, y] in 0 to 1, got {_short(corners)}")
    scale = 4  # drawn four times as large and averaged, for smooth edges
    large = Image.new("L", (side * scale, side * scale))
    ImageDraw.Draw(large).polygon([tuple(point) for point in points * (side * scale - 1)], fill=255)
    return torch.from_numpy(np.asarray(large.reduce(scale), np.float32) / 255)


def _colour_regions(image: Image.Image, context: Any) -> list[Region]:
    """A region for each colour of a map: all pixels that have exactly this colour."""
    pixels = np.asarray(image.convert("RGB"))
    if not isinstance(context, Mapping) or not all(isinstance(value, str) for value in context.values()):
        raise ValueError('color_context must be an object such as {"(255, 0, 0)": "red circle,1.0"}')
    regions = []
    for text, words in context.items():
        match = re.fullmatch(r"\(?\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)?", text)
        colour = tuple(map(int, match.groups())) if match else (256,)
        if max(colour) > 255:
            raise ValueError(f'{text!r} is not a colour such as "(255, 0, 0)"')
        mask = (pixels == colour).all(-1)
        if not mask.any():
            raise ValueError(f"the colour {text} of {words!r} is nowhere in the colour map")
        phrase, comma, weight = words.rpartition(",")
        try:
            value = float(weight) if comma else 1.0
        except ValueError:
            phrase, comma, value = words, "", 1.0  # the comma is part of the phrase
        regions.append(Region((phrase if comma else words).strip(), torch.from_numpy(mask).float(), value))
    return regions


def _region(entry: Any, folder: Path, where: str) -> Region:
    allowed = {"phrase", "mask", "weight", "occurrence"}
    if not isinstance(entry, dict) or not {"phrase", "mask"} <= entry.keys() <= allowed:
        raise ValueError(f"{where} must have phrase and mask, and may have weight and occurrence, got {_short(entry)}")
    for key, kind in (("phrase", str), ("weight", int | float), ("occurrence", int)):
        if key in entry and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
            expected = "text" if kind is str else "number"
            raise ValueError(f"{where}: {key} must be a {expected}, got {_short(entry[key])}")
    try:
        if isinstance(entry["mask"], str):
            with open_image(folder / entry["mask"], exif=True) as image:
                mask = torch.from_numpy(np.asarray(image.convert("L"), np.float32) / 255)
        else:
            mask = polygon(entry["mask"])
        return Region(entry["phrase"], mask, float(entry.get("weight", 1.0)), entry.get("occurrence"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _is_points(corners: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return isinstance(corners, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(number, point)) for point in corners
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
