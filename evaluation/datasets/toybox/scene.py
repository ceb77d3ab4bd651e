"""The Toybox grammar: which scenes exist, where their objects stand, and which scenes training never sees.

Units: lengths are fractions of the frame; x grows to the right, y grows downwards, (0, 0) is the top left corner.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal, NamedTuple

import numpy as np

Split = Literal["train", "test"]

SHAPES: Final = ("circle", "square", "triangle", "cross")
COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 30, 30),
    "green": (20, 140, 40),
    "blue": (30, 60, 210),
    "yellow": (250, 210, 20),
    "purple": (130, 40, 170),
    "orange": (250, 120, 10),
}
BACKGROUNDS: Final[dict[str, tuple[int, int, int]]] = {
    "gray": (128, 128, 128),
    "pink": (255, 176, 200),
    "mint": (160, 232, 190),
    "sky": (150, 200, 255),
}
STYLES: Final = ("flat", "outlined", "striped")
COUNTS: Final = (1, 2, 3)
SIZES: Final[dict[str, float]] = {"small": 0.14, "large": 0.21}  # radius of an object in a scene of several
ALONE_SCALE: Final = 1.35  # a single object is larger by this factor

EXTENTS: Final[dict[str, float]] = {"circle": 1.0, "square": 0.9, "triangle": 1.05, "cross": 1.05}
"""Half the side of the bounding box of a shape, in radii: chosen so that all shapes have about the same area."""
JITTER: Final = 0.03  # largest offset of an object from the centre of its slot, per axis
MARGIN: Final = 0.018  # least distance of an object from the edges of its slot: two objects are twice this apart

HELD_OUT_PAIRS: Final = frozenset({("circle", "purple"), ("square", "orange"), ("triangle", "green")})
"""(shape, colour) pairs that training never sees."""


class Slot(NamedTuple):
    """A rectangle for one object: centre, half extents, and the words that say where it is."""

    x: float
    y: float
    half_width: float
    half_height: float
    where: str


LAYOUTS: Final[dict[str, tuple[Slot, ...]]] = {
    "alone": (Slot(0.5, 0.5, 0.5, 0.5, "middle"),),
    "beside": (Slot(0.25, 0.5, 0.25, 0.5, "left"), Slot(0.75, 0.5, 0.25, 0.5, "right")),
    "stacked": (Slot(0.5, 0.25, 0.5, 0.25, "top"), Slot(0.5, 0.75, 0.5, 0.25, "bottom")),
    "two above one": (
        Slot(0.25, 0.25, 0.25, 0.25, "top left"),
        Slot(0.75, 0.25, 0.25, 0.25, "top right"),
        Slot(0.5, 0.75, 0.5, 0.25, "bottom"),
    ),
    "one above two": (
        Slot(0.5, 0.25, 0.5, 0.25, "top"),
        Slot(0.25, 0.75, 0.25, 0.25, "bottom left"),
        Slot(0.75, 0.75, 0.25, 0.25, "bottom right"),
    ),
}
"""The slots of each layout, in layout order: the order in which a scene lists its objects."""


@dataclass(frozen=True)
class Object:
    """One object of a scene: `shape` of `SHAPES`, `colour` of `COLOURS`, `size` of `SIZES`; else a ValueError."""

    shape: str
    colour: str
    size: str

    def __post_init__(self) -> None:
        _check("shape", self.shape, SHAPES)
        _check("colour", self.colour, COLOURS)
        _check("size", self.size, SIZES)


class Placed(NamedTuple):
    """An object with its centre and radius, in frame units."""

    object: Object
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """The content of an image: 1 to 3 objects, no two of the same shape and colour; ValueError for any other."""

    objects: tuple[Object, ...]  # in layout order: left before right, above before below
    layout: str  # a key of `LAYOUTS` with one slot for each object
    style: str  # one of `STYLES`, shared by all objects
    background: str  # a key of `BACKGROUNDS`
    offsets: tuple[tuple[float, float], ...]  # (dx, dy) of each object from the centre of its slot, within +-`JITTER`

    def __post_init__(self) -> None:
        _check("layout", self.layout, LAYOUTS)
        _check("style", self.style, STYLES)
        _check("background", self.background, BACKGROUNDS)
        if not len(self.objects) == len(self.offsets) == len(self.slots):
            counts = f"objects has {len(self.objects)} and offsets {len(self.offsets)}"
            raise ValueError(f"layout is {self.layout!r}, which has {len(self.slots)} slots; {counts}")
        if len({(thing.shape, thing.colour) for thing in self.objects}) != len(self.objects):
            raise ValueError(f"objects is {self.objects}; allowed: no two of the same shape and colour")
        if any(not abs(shift) <= JITTER for offset in self.offsets for shift in offset):
            raise ValueError(f"offsets is {self.offsets}; allowed: within +-{JITTER}")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of this scene's layout, one per object."""
        return LAYOUTS[self.layout]

    def placed(self) -> tuple[Placed, ...]:
        """Each object with its centre and radius."""
        return tuple(
            Placed(thing, slot.x + dx, slot.y + dy, radius(thing.size, len(self.objects)))
            for thing, slot, (dx, dy) in zip(self.objects, self.slots, self.offsets, strict=True)
        )


def radius(size: str, num_objects: int) -> float:
    """Radius in frame units of an object of that size in a scene with `num_objects` objects."""
    return SIZES[size] * (ALONE_SCALE if num_objects == 1 else 1.0)


def layouts_of(num_objects: int) -> tuple[str, ...]:
    """The layouts with that many slots, in a fixed order."""
    return tuple(name for name, slots in LAYOUTS.items() if len(slots) == num_objects)


def specification(scene: Scene) -> str:
    """The scene without its offsets, as text: layout, style, background, and each object in layout order."""
    things = (f"{thing.size} {thing.colour} {thing.shape}" for thing in scene.objects)
    return "|".join((scene.layout, scene.style, scene.background, *things))


def held_out(scene: Scene) -> bool:
    """Whether the scene belongs to the test split: it has a pair of `HELD_OUT_PAIRS`, or its hash is held out.

    The hash holds out 1/8 of all specifications: those whose SHA-256 begins with a byte that leaves remainder 4
    modulo 8. Remainder 4 holds out 1/8 of the 576 scenes of one object too; remainder 0 would hold out 1/13 of them.
    """
    pair = any((thing.shape, thing.colour) in HELD_OUT_PAIRS for thing in scene.objects)
    return pair or hashlib.sha256(specification(scene).encode()).digest()[0] % 8 == 4


def sample_scene(rng: np.random.Generator, split: Split = "train", num_objects: int | None = None) -> Scene:
    """A random scene: every attribute uniform and independent, given the split and that no two objects are alike.

    "test" gives only held-out scenes, "train" only others. Without `num_objects`, 1 to 3 are drawn uniformly.
    """
    _check("split", split, ("train", "test"))
    if num_objects is None:
        num_objects = int(rng.integers(1, 4))
    _check("num_objects", num_objects, COUNTS)
    while held_out(scene := _any_scene(rng, num_objects)) != (split == "test"):
        pass
    return scene


def _any_scene(rng: np.random.Generator, count: int) -> Scene:
    kinds = list(product(SHAPES, COLOURS))
    pairs = rng.choice(len(kinds), size=count, replace=False).tolist()
    sizes = rng.integers(0, len(SIZES), size=count).tolist()
    objects = tuple(Object(*kinds[int(pair)], list(SIZES)[size]) for pair, size in zip(pairs, sizes, strict=True))
    layout = layouts_of(count)[rng.integers(0, len(layouts_of(count)))]
    style = STYLES[rng.integers(0, len(STYLES))]
    background = list(BACKGROUNDS)[rng.integers(0, len(BACKGROUNDS))]
    unit = rng.uniform(-1.0, 1.0, size=(count, 2)).tolist()
    offsets = tuple(
        (dx * _room(thing, slot.half_width, count), dy * _room(thing, slot.half_height, count))
        for thing, slot, (dx, dy) in zip(objects, LAYOUTS[layout], unit, strict=True)
    )
    return Scene(objects, layout, style, background, offsets)


def _room(thing: Object, half: float, count: int) -> float:
    """How far the object may move along one axis of a slot with that half extent, at most `JITTER`."""
    return min(JITTER, half - MARGIN - EXTENTS[thing.shape] * radius(thing.size, count))


def _check(argument: str, value: object, allowed: Collection[Any]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
