"""Layouts of paint-with-words: the regions of a prompt's phrases, and the JSON files and colour maps they come from."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from ediffi.io import plain_json, png
from ediffi.io.image_input import ImageInput, read_mask, read_rgba
from ediffi.io.images import Color
from ediffi.io.numbers import check_number

SIDE = 256
"""Side in pixels of the mask of a polygon."""
COLOR_DISTANCE = 48.0
"""How far in RGB, of 0 to 255, a pixel of a colour map may be from a named colour: JPEG of good quality stays below."""

logger = logging.getLogger(__name__)


MaskInput = ImageInput | Sequence[Sequence[float]]
"""A mask as `ediffi.io.image_input` reads it, or the corners [[x, y], ...] of a polygon, see `polygon`."""


@dataclass(frozen=True, init=False)
class Region:
    """A phrase and its area of the image.

    Args:
        phrase: words of the prompt; upper and lower case are equal.
        mask: how much of each pixel belongs to the phrase, from 0 to 1: a path, a Pillow image, an array or a tensor,
            white inside; or a polygon. Square, as images are. It is kept as a tensor [h, w].
        weight: factor on w' for this phrase, at least 0.
        occurrence: which occurrence of the phrase in the prompt is meant, from 1; None for all.

    Raises:
        ValueError: one of them is wrong; as `read_mask`.
    """

    phrase: str
    mask: Float[Tensor, "h w"]
    weight: float
    occurrence: int | None

    def __init__(self, phrase: str, mask: MaskInput, weight: float = 1.0, occurrence: int | None = None) -> None:
        if not isinstance(phrase, str) or not phrase.strip():
            raise ValueError(f"the phrase of a painted region must be words of the prompt, got {phrase!r}")
        inputs = str | Path | bytes | Image.Image | np.ndarray | Tensor
        levels = read_mask(mask, f"the mask of {phrase!r}") if isinstance(mask, inputs) else polygon(mask)
        height, width = levels.shape
        if height != width:
            raise ValueError(f"the mask of {phrase!r} is {width}x{height}; it must be square, as images are")
        if not (levels > 0).any():
            raise ValueError(f"the mask of {phrase!r} is empty: it is 0 everywhere")
        check_number(f"the weight of {phrase!r}", weight, lambda w: 0 <= w < float("inf"), "at least 0")
        if occurrence is not None:
            check_number(f"the occurrence of {phrase!r}", occurrence, lambda k: k >= 1, "at least 1", int)
        for name, value in (
            ("phrase", phrase),
            ("mask", levels),
            ("weight", float(weight)),
            ("occurrence", occurrence),
        ):
            object.__setattr__(self, name, value)


def read_layout(path: Path) -> list[Region]:
    """Read a layout from JSON; the mask files that it names are relative to it.

    Either a list of `{"phrase": ..., "mask": "FILE.png" or [[x, y], ...], "weight": 1.0, "occurrence": 1}`, where masks
    are white inside and may be in the file itself, as `data:image/png;base64,...` (`layout_json` writes such), and
    polygons have corners from 0 to 1 from the top left; or a colour map as in the public Stable
    Diffusion versions, `{"color_map_image": "FILE.png", "color_context": {"(255, 0, 0)": "phrase,weight"}}`, see
    `color_map`.

    Raises:
        FileNotFoundError: the layout or a mask is missing.
        ValueError: a part of the layout is wrong; the message names it.
    """
    try:
        content = plain_json.read(path)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict) and content.keys() == {"color_map_image", "color_context"}:
        regions = color_map(path.parent / str(content["color_map_image"]), content["color_context"])
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


def layout_json(regions: Sequence[Region]) -> str:
    """A layout that `read_layout` reads, with its masks inside, rounded to 8 bits."""
    entries = []
    for region in regions:
        mask = Image.fromarray((region.mask.numpy() * 255).round().astype(np.uint8))
        entry: dict[str, Any] = {"phrase": region.phrase, "mask": png.data_url(mask), "weight": region.weight}
        entries.append(entry | ({} if region.occurrence is None else {"occurrence": region.occurrence}))
    return json.dumps(entries, ensure_ascii=False, indent=2)


def polygon(corners: Any, side: int = SIDE) -> Float[Tensor, "side side"]:
    """The mask of a polygon with corners [[x, y], ...] from 0 to 1 from the top left; ValueError for fewer than 3."""
    points = np.array(corners, dtype=np.float64) if _is_points(corners) else np.empty((0, 2))
    if len(points) < 3 or not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"a polygon has at least three corners [x, y] in 0 to 1, got {_short(corners)}")
    scale = 4  # drawn four times as large and averaged, for smooth edges
    large = Image.new("L", (side * scale, side * scale))
    ImageDraw.Draw(large).polygon([tuple(point) for point in points * (side * scale - 1)], fill=255)
    return torch.from_numpy(np.asarray(large.reduce(scale), np.float32) / 255)


def color_map(image: ImageInput, context: Any) -> list[Region]:
    """A region for each colour of a map: the pixels to which it is the nearest, within `COLOR_DISTANCE`.

    So maps may be JPEG or WebP, which change colours a little. Transparent pixels belong to no colour. Other colours
    that cover at least a hundredth of the map are told in the log.

    Args:
        image: the map, in any form of `ediffi.io.image_input`.
        context: "phrase,weight" by colour: `{"(255, 0, 0)": "red circle,1.5"}`; the weight may be left out.

    Raises:
        ValueError: a colour is none, is given twice or is nowhere in the map; as `Region`.
    """
    if not isinstance(context, Mapping) or not all(isinstance(value, str) for value in context.values()):
        raise ValueError('color_context must be an object such as {"(255, 0, 0)": "red circle,1.0"}')
    colors = {text: _color(text) for text in context}
    if len(set(colors.values())) < len(colors):
        raise ValueError(f"a colour is given twice in color_context: {', '.join(colors)}")
    pixels = read_rgba(image, "the colour map")
    owners = nearest_colors(pixels, list(colors.values()), COLOR_DISTANCE)
    regions = []
    for index, (text, words) in enumerate(context.items()):
        if not (owners == index).any():
            raise ValueError(f"the colour {text} of {words!r} is nowhere in the colour map")
        phrase, weight = _weighted_phrase(words)
        regions.append(Region(phrase, (owners == index).astype(np.float32), weight))
    if unnamed := _unnamed(pixels, owners):
        logger.warning("no phrase has these colours of the map, which stay unpainted: %s", unnamed)
    return regions


def nearest_colors(
    pixels: UInt8[np.ndarray, "h w 4"], colors: Sequence[Color], within: float = float("inf")
) -> Int[np.ndarray, "h w"]:
    """For each pixel of an RGBA image, which colour is the nearest in RGB; -1 where none is within a distance, and
    where the pixel is more transparent than opaque."""
    found, places = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
    squares = ((found[:, None, :3].astype(np.int64) - np.array(colors).reshape(-1, 3)) ** 2).sum(-1)
    if not colors:
        return np.full(pixels.shape[:2], -1)
    near = (found[:, 3] >= 128) & (squares.min(-1) <= within**2)
    return np.where(near, squares.argmin(-1), -1)[places.reshape(pixels.shape[:2])]


def _unnamed(pixels: UInt8[np.ndarray, "h w 4"], owners: Int[np.ndarray, "h w"]) -> str:
    """The colours that cover at least a hundredth of the map and that no phrase has, the largest first."""
    rest = pixels[(owners < 0) & (pixels[..., 3] >= 128)][:, :3]
    _, places, counts = np.unique(rest // 32, axis=0, return_inverse=True, return_counts=True)
    large = [k for k in np.argsort(-counts) if counts[k] >= owners.size / 100]
    means = [rest[places.reshape(-1) == k].mean(0).round().astype(int).tolist() for k in large]
    shares = (f"{100 * counts[k] / owners.size:.0f} %" for k in large)
    return ", ".join(f"{tuple(mean)} ({share})" for mean, share in zip(means, shares, strict=True))


def _color(text: str) -> Color:
    match = re.fullmatch(r"\(?\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)?", text)
    red, green, blue = map(int, match.groups()) if match else (256, 0, 0)
    if max(red, green, blue) > 255:
        raise ValueError(f'{text!r} is not a colour such as "(255, 0, 0)"')
    return red, green, blue


def _weighted_phrase(words: str) -> tuple[str, float]:
    """The phrase and the weight of "phrase,weight"; a comma without a number after it is part of the phrase."""
    phrase, comma, weight = words.rpartition(",")
    try:
        return (phrase.strip(), float(weight)) if comma else (words.strip(), 1.0)
    except ValueError:
        return words.strip(), 1.0


def _region(entry: Any, folder: Path, where: str) -> Region:
    allowed = {"phrase", "mask", "weight", "occurrence"}
    if not isinstance(entry, dict) or not {"phrase", "mask"} <= entry.keys() <= allowed:
        raise ValueError(f"{where} must have phrase and mask, and may have weight and occurrence, got {_short(entry)}")
    for key, kind in (("phrase", str), ("weight", int | float), ("occurrence", int)):
        if key in entry and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
            expected = "text" if kind is str else "number"
            raise ValueError(f"{where}: {key} must be a {expected}, got {_short(entry[key])}")
    try:
        mask: MaskInput = polygon(entry["mask"]) if not isinstance(entry["mask"], str) else folder / entry["mask"]
        if isinstance(entry["mask"], str) and entry["mask"].startswith("data:"):
            mask = png.from_data_url(entry["mask"], "the mask")
        return Region(entry["phrase"], mask, float(entry.get("weight", 1.0)), entry.get("occurrence"))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from None


def _is_points(corners: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return isinstance(corners, list | tuple) and all(
        isinstance(point, list | tuple) and len(point) == 2 and all(map(number, point)) for point in corners
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
