"""The oracle: reads a picture back into a scene.

Analysis by synthesis. The background is the palette colour nearest to the median of the border; the connected regions
that differ from it are the objects; each is explained by the template (shape, style, size, colour, place) of the least

    E = sum over pixels |picture - background - sum over layers l of coverage_l * (paint_l - background)|^2,

where the coverages come from the renderer itself. E is quadratic in the paints, so one matrix product of the templates
with the region gives it for every template, place and colour at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ediffi.evaluation.datasets.toybox.render import Floats, draw
from ediffi.evaluation.datasets.toybox.scene import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    EXTENTS,
    LAYOUTS,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Placed,
    layouts_of,
    radius,
)

MIN_SIDE: Final = 16
MAX_SIDE: Final = 1024
WORKING_SIDE: Final = 64
"""Larger pictures are averaged down to this side: enough to tell everything apart."""
NATIVE_SIDE: Final = 32
"""Smaller pictures are enlarged to `WORKING_SIDE`, bicubic: at 16, neighbours may share a pixel."""
FOREGROUND: Final = 45.0
"""A pixel this far from the background (Euclidean, in 0..255 RGB) belongs to an object."""
PARTING: Final = (75.0, 105.0, 150.0)
"""Higher thresholds, which part objects that run into each other."""
UNKNOWN_BACKGROUND: Final = 60.0
"""A border further than this from every background is none of them."""
MIN_AREA: Final = 0.012
"""Regions smaller than this part of the frame are specks; the smallest object covers 0.04."""
POOR: Final = 0.15
UNEXPLAINED: Final = 0.25
"""Part of a region's energy that the best template leaves: above `POOR` parting it is tried, above `UNEXPLAINED` it is
no object that we know."""
BLURS: Final = (0.0, 1 / 64, 1 / 32)
"""Templates come sharp and blurred: the standard deviation of the blur, frame units."""
GAIN: Final = 0.9
"""Parting must leave less than this part of the energy that the region as one object leaves."""
PHASES: Final = tuple(product((0.0, 0.5), repeat=2))
SHIFTS: Final = tuple(product((-1, 0, 1), repeat=2))


@dataclass(frozen=True)
class Seen:
    """One object as read from a picture; None where nothing that we know explains it. Centre in frame units."""

    shape: str | None
    colour: str | None
    size: str | None
    style: str | None
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
        objects: in layout order, or from top to bottom where the layout is unknown.
        layout: a key of `LAYOUTS`, or None: no object, too many, or a placement that is none of them.
        style: the style of every object, or None: they differ, one is unknown, or there is none.
        background: a key of `BACKGROUNDS`, or None.
    """

    objects: tuple[Seen, ...]
    layout: str | None
    style: str | None
    background: str | None


class _Explained(NamedTuple):
    """An object, the energy that its template leaves, and the energy of its region."""

    seen: Seen
    energy: float
    total: float


class _Bank(NamedTuple):
    """Templates of one resolution, sharp and blurred, in each phase: t = (blur, phase, shape, style, size)."""

    half: int
    coverages: Floats  # [t * 3, side * side], layers colour, black, white; side = 2 * half + 1
    gram: Floats  # [t, 3, 3] products of the layers of one template


def read(image: NDArray[np.uint8]) -> Reading:
    """Read one picture.

    Args:
        image: [s, s, 3] RGB, 0 to 255, s from 16 to 1024. Meant for 64 and more; at 16 about 1 in 16 of the renderer's
            own pictures is misread.

    Raises:
        ValueError: `image` has another shape or dtype.
    """
    picture = _working_picture(image)
    border = _border(picture)
    background = _nearest_background(border)
    seen = _objects(picture - border, border)
    layout = _layout(seen)
    objects = tuple(_in_order(seen, layout))
    styles = {thing.style for thing in objects}
    return Reading(objects, layout, styles.pop() if len(styles) == 1 else None, background)


def read_batch(images: Iterable[NDArray[np.uint8]]) -> list[Reading]:
    """Read pictures, each as `read` does; they may differ in size."""
    return [read(image) for image in images]


def _working_picture(image: NDArray[np.uint8]) -> Floats:
    side = image.shape[0] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or image.shape != (side, side, 3) or not MIN_SIDE <= side <= MAX_SIDE:
        raise ValueError(
            f"image is {image.dtype} {list(image.shape)}; allowed: uint8 [s, s, 3] with s from {MIN_SIDE} to {MAX_SIDE}"
        )
    if NATIVE_SIDE <= side <= WORKING_SIDE:
        return image.astype(np.float32)
    if side % WORKING_SIDE == 0:
        factor = side // WORKING_SIDE
        boxes = image.reshape(WORKING_SIDE, factor, WORKING_SIDE, factor, 3)
        mean: Floats = boxes.mean(axis=(1, 3), dtype=np.float32)
        return mean
    rule = Image.Resampling.BOX if side > WORKING_SIDE else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((WORKING_SIDE, WORKING_SIDE), rule), np.float32)


def _border(picture: Floats) -> Floats:
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    median: Floats = np.median(edge, axis=0).astype(np.float32)
    return median


def _nearest_background(colour: Floats) -> str | None:
    distances = {name: float(np.linalg.norm(colour - np.array(value))) for name, value in BACKGROUNDS.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] < UNKNOWN_BACKGROUND else None


def _objects(foreground: Floats, border: Floats) -> list[Seen]:
    """The objects, one per region, or several where a region that is poorly explained parts into better ones."""
    regions = _regions(foreground, FOREGROUND)
    explained: list[_Explained] = []
    for region in regions:
        whole = _explain(foreground, region, border, min(len(regions), 2))
        poor = whole.energy > POOR * whole.total
        explained += _parted(foreground, region, border, whole) if poor else [whole]
    return [one.seen for one in explained]


def _parted(foreground: Floats, region: NDArray[np.bool_], border: Floats, whole: _Explained) -> list[_Explained]:
    """Two or more objects that explain a region, of all of it but little, or else the one `whole`."""
    best = [whole]
    least = min(GAIN * whole.energy, UNEXPLAINED * whole.total)
    for threshold in PARTING:
        parts = _regions(foreground * region[..., None], threshold)
        explained = [_explain(foreground, part, border, 2) for part in parts]
        rest = whole.total - sum(one.total - one.energy for one in explained)
        if len(parts) > 1 and rest < least:
            best, least = explained, rest
    return best


def _regions(foreground: Floats, threshold: float) -> list[NDArray[np.bool_]]:
    """The objects as masks [s, s]; a row lost between stripes (red fading into white passes pink) is closed again."""
    mask = np.linalg.norm(foreground, axis=2) > threshold
    mask = ndimage.binary_closing(mask, structure=np.ones((2, 1), bool))
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == k for k in range(1, count + 1) if areas[k] >= MIN_AREA * mask.size]


def _explain(foreground: Floats, region: NDArray[np.bool_], border: Floats, crowd: int) -> _Explained:
    """The template of least energy for one region; `crowd` is 1 for an object alone, else 2."""
    side = len(region)
    bank = _bank(side, crowd)
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    centre = np.array([rows[0] + rows[-1] + 1, columns[0] + columns[-1] + 1]) / 2
    near = ndimage.binary_dilation(region, iterations=2)
    padded = np.pad(foreground * near[..., None], ((bank.half + 2,) * 2, (bank.half + 2,) * 2, (0, 0)))
    # Where the windows around the centre begin in `padded`; with the phases they reach 1 to 1.5 pixels to every side.
    first = np.floor(centre - 0.25).astype(int) + 2
    width = 2 * bank.half + 1
    windows = [padded[first[0] + dy :, first[1] + dx :][:width, :width].reshape(-1, 3) for dy, dx in SHIFTS]
    total = float((padded**2).sum())
    energies = total - _explained_energy(bank, np.concatenate(windows, axis=1), border)
    best = energies.reshape(-1, len(SHAPES), len(STYLES), len(SIZES), len(COLOURS)).min(axis=0)
    y, x = (centre / side).tolist()
    energy = float(best.min())
    if energy > UNEXPLAINED * total:
        return _Explained(Seen(None, None, None, None, x, y), total, total)
    shape, style, size, colour = np.unravel_index(best.argmin(), best.shape)
    seen = Seen(SHAPES[shape], list(COLOURS)[colour], list(SIZES)[size], STYLES[style], x, y)
    return _Explained(seen, energy, total)


def _explained_energy(bank: _Bank, windows: Floats, border: Floats) -> Floats:
    """2 <window, template> - |template|^2, [shift, (blur, phase, shape, style, size), colour].

    `windows` [side * side, shift * 3] are pictures less the background `border` [3].
    """
    paints = np.zeros((len(COLOURS), 3, 3), np.float32)  # colour, layer, channel
    paints[:, 0] = list(COLOURS.values())
    paints[:, 2] = 255
    paints -= border
    products = (bank.coverages @ windows).reshape(len(bank.gram), 3, len(SHIFTS), 3)
    linear = np.einsum("tlsc,klc->stk", products, paints, optimize=True)
    quadratic = np.einsum("tlm,klc,kmc->tk", bank.gram, paints, paints, optimize=True)
    explained: Floats = 2 * linear - quadratic
    return explained


@cache
def _bank(side: int, crowd: int) -> _Bank:
    largest = max(EXTENTS.values()) * radius("large", crowd)
    half = int(np.ceil(largest * side)) + 2
    pixels = ((np.arange(2 * half + 1) + 0.5) / side).astype(np.float32)
    layers = []
    for (py, px), shape, style, size in product(PHASES, SHAPES, STYLES, SIZES):
        thing = Object(shape, "red", size)
        placed = Placed(thing, (half + 0.5 + px) / side, (half + 0.5 + py) / side, radius(size, crowd))
        layers.append(np.stack(draw(placed, style, crowd, pixels, pixels, side)))
    sharp = np.stack(layers)
    stack = np.concatenate([ndimage.gaussian_filter(sharp, (0, 0, blur * side, blur * side)) for blur in BLURS])
    stack = stack.reshape(len(stack), 3, -1)
    return _Bank(half, stack.reshape(3 * len(stack), -1), np.einsum("tlp,tmp->tlm", stack, stack))


def _layout(seen: Sequence[Seen]) -> str | None:
    """The layout whose slots the centres are arranged like, or None."""
    if len(seen) not in COUNTS:
        return None
    if len(seen) == 1:
        return "alone"
    fitting = [name for name in layouts_of(len(seen)) if _arranged(_in_order(seen, name), name)]
    return fitting[0] if fitting else None


def _arranged(seen: Sequence[Seen], layout: str) -> bool:
    """Whether every two objects stand as their slots do: left means dx > |dy|, above means dy > |dx|."""
    slots = LAYOUTS[layout]
    for i, j in combinations(range(len(seen)), 2):
        dx, dy = seen[j].x - seen[i].x, seen[j].y - seen[i].y
        level = slots[i].y == slots[j].y
        if not (dx > abs(dy) if level else dy > abs(dx)):
            return False
    return True


def _in_order(seen: Sequence[Seen], layout: str | None) -> list[Seen]:
    """The objects in the order of the layout's slots; from top to bottom where there is no layout."""
    if layout is None:
        return sorted(seen, key=lambda thing: (thing.y, thing.x))
    return by_slot(seen, layout)


def by_slot(seen: Sequence[Seen], layout: str) -> list[Seen]:
    """As many objects as the layout has slots, each at the slot it is nearest to: least sum of squared distances."""
    slots = LAYOUTS[layout]

    def cost(order: Sequence[Seen]) -> float:
        return sum((thing.x - slot.x) ** 2 + (thing.y - slot.y) ** 2 for thing, slot in zip(order, slots, strict=True))

    return min(map(list, permutations(seen)), key=cost)
