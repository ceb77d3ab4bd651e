"""The oracle: reads the scene from an image, and scores whether the image shows what a caption names.

Analysis by synthesis. The background is the palette colour nearest to the median of the border; the connected regions
that differ from it are the objects; each is explained by the template (shape, style, size, colour, place) of the least

    E = sum over pixels |image - background - sum over layers l of coverage_l * (paint_l - background)|^2,

where the coverages come from the renderer itself. E is quadratic in the paints, so one matrix product of the templates
with the region gives it for every template, place and colour at once.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations, permutations, product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ediffi.evaluation.datasets.toybox.caption import Caption
from ediffi.evaluation.datasets.toybox.render import Floats, draw
from ediffi.evaluation.datasets.toybox.scene import (
    BACKGROUNDS,
    COLOURS,
    EXTENTS,
    LAYOUTS,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Placed,
    Scene,
    layouts_of,
    radius,
)

MIN_SIDE: Final = 16
MAX_SIDE: Final = 1024
WORKING_SIDE: Final = 64  # larger images are averaged down to this side, which shows every detail
NATIVE_SIDE: Final = 32  # smaller images are enlarged to `WORKING_SIDE`, bicubic: at 16, two objects may share a pixel
FOREGROUND: Final = 45.0  # a pixel this far from the background (Euclidean, in 0..255 RGB) belongs to an object
SPLITTING: Final = (75.0, 105.0, 150.0)  # higher thresholds, which split a region of objects that touch each other
UNKNOWN_BACKGROUND: Final = 60.0  # a border further than this from every background is none of them
MIN_AREA: Final = 0.012  # smaller regions are ignored (share of the frame); the smallest object covers 0.04
POOR: Final = 0.15  # share of a region's energy that the best template leaves: above it splitting is tried
UNEXPLAINED: Final = 0.25  # above this share the region is not a Toybox object
BLURS: Final = (0.0, 1 / 64, 1 / 32)  # templates are sharp and blurred: the standard deviation of the blur, frame units
GAIN: Final = 0.9  # splitting must leave less than this share of the energy that the region as one object leaves
PHASES: Final = tuple(product((0.0, 0.5), repeat=2))
SHIFTS: Final = tuple(product((-1, 0, 1), repeat=2))


@dataclass(frozen=True)
class DetectedObject:
    """One object read from an image: attributes (None if no template explains it) and centre in frame units."""

    shape: str | None
    colour: str | None
    size: str | None
    style: str | None
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """What the oracle reads from an image; None where it is none of Toybox's values."""

    objects: tuple[DetectedObject, ...]  # in layout order, or from top to bottom where `layout` is None
    layout: str | None  # None for no object, too many, or a placement that is none of `LAYOUTS`
    style: str | None  # of every object; None where they differ, one is unknown, or there is no object
    background: str | None


class _Explained(NamedTuple):
    """An object, the energy that its template leaves, and the energy of its region."""

    detected: DetectedObject
    energy: float
    total: float


class _Bank(NamedTuple):
    """Templates of one resolution, sharp and blurred, in each phase: t = (blur, phase, shape, style, size)."""

    half: int  # pixels from the centre to the edge of a window
    coverages: Floats  # [t * 3, side * side], layers colour, black, white; side = 2 * half + 1
    gram: Floats  # [t, 3, 3] products of the layers of one template


def read(image: NDArray[np.uint8]) -> Reading:
    """Read the scene from one image, [s, s, 3] RGB, 0 to 255; s from 16 to 1024, else a ValueError.

    Meant for s of 64 and more; at 16 about 1 in 16 of the renderer's images is misread.
    """
    pixels = _at_working_side(image)
    border = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0).astype(np.float32)
    detected = _objects(pixels - border, border)
    layout = next((name for name in layouts_of(len(detected)) if _arranged(by_slot(detected, name), name)), None)
    objects = by_slot(detected, layout) if layout else sorted(detected, key=lambda thing: (thing.y, thing.x))
    styles = {thing.style for thing in objects}
    return Reading(tuple(objects), layout, styles.pop() if len(styles) == 1 else None, _nearest_background(border))


def _at_working_side(image: NDArray[np.uint8]) -> Floats:
    side = image.shape[0] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or image.shape != (side, side, 3) or not MIN_SIDE <= side <= MAX_SIDE:
        allowed = f"uint8 [s, s, 3] with s from {MIN_SIDE} to {MAX_SIDE}"
        raise ValueError(f"image is {image.dtype} {list(image.shape)}; allowed: {allowed}")
    if NATIVE_SIDE <= side <= WORKING_SIDE:
        return image.astype(np.float32)
    if side % WORKING_SIDE == 0:
        boxes = image.reshape(WORKING_SIDE, side // WORKING_SIDE, WORKING_SIDE, side // WORKING_SIDE, 3)
        return np.asarray(boxes.mean(axis=(1, 3), dtype=np.float32))
    rule = Image.Resampling.BOX if side > WORKING_SIDE else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((WORKING_SIDE, WORKING_SIDE), rule), np.float32)


def _nearest_background(colour: Floats) -> str | None:
    distances = {name: float(np.linalg.norm(colour - np.array(value))) for name, value in BACKGROUNDS.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] < UNKNOWN_BACKGROUND else None


def _objects(foreground: Floats, border: Floats) -> list[DetectedObject]:
    """The objects: one per region, or several where splitting a poorly explained region explains it better."""
    regions = _regions(foreground, FOREGROUND)
    explained: list[_Explained] = []
    for region in regions:
        whole = _explain(foreground, region, border, min(len(regions), 2))
        poor = whole.energy > POOR * whole.total
        explained += _split(foreground, region, border, whole) if poor else [whole]
    return [one.detected for one in explained]


def _split(foreground: Floats, region: NDArray[np.bool_], border: Floats, whole: _Explained) -> list[_Explained]:
    """Two or more objects that explain nearly all of a region, or else the one object `whole`."""
    best = [whole]
    least = min(GAIN * whole.energy, UNEXPLAINED * whole.total)
    for threshold in SPLITTING:
        parts = _regions(foreground * region[..., None], threshold)
        explained = [_explain(foreground, part, border, 2) for part in parts]
        rest = whole.total - sum(one.total - one.energy for one in explained)
        if len(parts) > 1 and rest < least:
            best, least = explained, rest
    return best


def _regions(foreground: Floats, threshold: float) -> list[NDArray[np.bool_]]:
    """The connected regions as masks [s, s]."""
    mask = np.linalg.norm(foreground, axis=2) > threshold
    # A row between two stripes may be lost: red fading into white passes pink, a background. Closing restores it.
    mask = ndimage.binary_closing(mask, structure=np.ones((2, 1), bool))
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == k for k in range(1, count + 1) if areas[k] >= MIN_AREA * mask.size]


def _explain(foreground: Floats, region: NDArray[np.bool_], border: Floats, crowd: int) -> _Explained:
    """The template of least energy for one region; `crowd` is 1 for a single object, else 2."""
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
        return _Explained(DetectedObject(None, None, None, None, x, y), total, total)
    shape, style, size, colour = np.unravel_index(best.argmin(), best.shape)
    detected = DetectedObject(SHAPES[shape], list(COLOURS)[colour], list(SIZES)[size], STYLES[style], x, y)
    return _Explained(detected, energy, total)


def _explained_energy(bank: _Bank, windows: Floats, border: Floats) -> Floats:
    """2 <window, template> - |template|^2, [shift, (blur, phase, shape, style, size), colour].

    `windows` [side * side, shift * 3] are pixels less the background `border` [3].
    """
    paints = np.zeros((len(COLOURS), 3, 3), np.float32)  # colour, layer, channel
    paints[:, 0] = list(COLOURS.values())
    paints[:, 2] = 255
    paints -= border
    products = (bank.coverages @ windows).reshape(len(bank.gram), 3, len(SHIFTS), 3)
    linear = np.einsum("tlsc,klc->stk", products, paints, optimize=True)
    quadratic = np.einsum("tlm,klc,kmc->tk", bank.gram, paints, paints, optimize=True)
    return np.asarray(2 * linear - quadratic)


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


def by_slot(detected: Sequence[DetectedObject], layout: str) -> list[DetectedObject]:
    """One object for each slot of the layout, in slot order: the assignment of least sum of squared distances."""
    slots = LAYOUTS[layout]

    def cost(order: Sequence[DetectedObject]) -> float:
        return sum((thing.x - slot.x) ** 2 + (thing.y - slot.y) ** 2 for thing, slot in zip(order, slots, strict=True))

    return min(map(list, permutations(detected)), key=cost)


def _arranged(detected: Sequence[DetectedObject], layout: str) -> bool:
    """Whether every two objects stand as their slots do: left means dx > |dy|, above means dy > |dx|."""
    for (one, slot), (other, other_slot) in combinations(zip(detected, LAYOUTS[layout], strict=True), 2):
        dx, dy = other.x - one.x, other.y - one.y
        if not (dx > abs(dy) if slot.y == other_slot.y else dy > abs(dx)):
            return False
    return True


@dataclass(frozen=True)
class Score:
    """Whether an image is right, field by field; None where the caption does not name the field.

    `shape`, `colour`, `size`, `style` are True only if every object is right, `everything` only if no field is False.
    """

    background: bool | None
    count: bool
    layout: bool | None
    shape: bool
    colour: bool
    size: bool | None
    style: bool | None
    everything: bool


def score(scene: Scene, caption: Caption, reading: Reading) -> Score:
    """Compare a reading with what `caption` says of `scene`.

    Objects are matched by place: each to the slot of the scene's layout that it is nearest to, one object a slot. Where
    the caption does not name the layout, the match with the most right attributes counts. With a wrong count nothing
    can be matched, and shape, colour, size, style and layout are all wrong.
    """
    right = len(reading.objects) == len(scene.objects)
    match = by_slot(reading.objects, scene.layout) if right and "layout" in caption.named else _likest(scene, reading)
    pairs = list(zip(scene.objects, match, strict=True)) if right else []
    fields: dict[str, bool | None] = {
        "background": reading.background == scene.background,
        "count": right,
        "layout": right and reading.layout == scene.layout,
        "shape": right and all(thing.shape == detected.shape for thing, detected in pairs),
        "colour": right and all(thing.colour == detected.colour for thing, detected in pairs),
        "size": right and all(thing.size == detected.size for thing, detected in pairs),
        "style": right and reading.style == scene.style,
    }
    for name in {"background", "layout", "size", "style"} - caption.named:
        fields[name] = None
    return Score(**fields, everything=all(value is not False for value in fields.values()))  # type: ignore[arg-type]


def _likest(scene: Scene, reading: Reading) -> Sequence[DetectedObject]:
    """The detected objects in the order in which most of their attributes are those of the scene."""

    def total(order: Sequence[DetectedObject]) -> int:
        pairs = zip(scene.objects, order, strict=False)
        return sum((a.shape == b.shape) + (a.colour == b.colour) + (a.size == b.size) for a, b in pairs)

    return max(permutations(reading.objects), key=total)


def accuracy(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of each field over the scores that have it, 0 to 1; nan where none has."""
    rows = [asdict(one) for one in scores]
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in Score.__dataclass_fields__}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in columns.items()}
