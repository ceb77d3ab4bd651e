"""The Toybox grammar: which scenes exist, where their objects stand, and which of them training never sees.

Units: lengths are fractions of the frame; x grows to the right, y grows downwards, (0, 0) is the top left corner.
A scene's discrete specification is everything but its jitter: layout, style, background, each object in layout order.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

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
SIZES: Final[dict[str, float]] = {"small": 0.14, "large": 0.21}
"""Radius of an object among others; `ALONE_SCALE` times that when it is alone."""
ALONE_SCALE: Final = 1.35

EXTENTS: Final[dict[str, float]] = {"circle": 1.0, "square": 0.9, "triangle": 1.05, "cross": 1.05}
"""Half the side of the box around a shape, in radii: chosen so that the shapes weigh about the same to the eye."""
JITTER: Final = 0.03
"""Largest offset of an object from its slot's centre, per axis."""
MARGIN: Final = 0.018
"""An object keeps this far from the edges of its slot, so two objects are at least twice this apart."""

HELD_OUT_PAIRS: Final = frozenset({("circle", "purple"), ("square", "orange"), ("triangle", "green")})
"""(shape, colour) pairs that training never sees."""


class Slot(NamedTuple):
    """A rectangle that one object has for itself: centre and half extents, and the words that say where it is."""

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
COUNTS: Final = (1, 2, 3)


def _check(argument: str, value: object, allowed: object) -> None:
    if value not in allowed:  # type: ignore[operator]
        raise ValueError(f"{argument} is {value!r}; allowed: {', '.join(map(repr, allowed))}")  # type: ignore[call-overload]


@dataclass(frozen=True)
class Object:
    """One thing in a scene.

    Attributes:
        shape: one of `SHAPES`.
        colour: a key of `COLOURS`.
        size: a key of `SIZES`.

    Raises:
        ValueError: an attribute is none of the allowed ones.
    """

    shape: str
    colour: str
    size: str

    def __post_init__(self) -> None:
        _check("shape", self.shape, SHAPES)
        _check("colour", self.colour, COLOURS)
        _check("size", self.size, SIZES)


class Placed(NamedTuple):
    """An object where it stands: centre and radius in frame units."""

    object: Object
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        objects: 1 to 3 in layout order (left before right, above before below), no two of the same shape and colour.
        layout: a key of `LAYOUTS` with as many slots as there are objects.
        style: one of `STYLES`, shared by all objects.
        background: a key of `BACKGROUNDS`.
        offsets: (dx, dy) of each object from the centre of its slot, within +-`JITTER`.

    Raises:
        ValueError: an attribute is none of the allowed ones, or they do not fit together.
    """

    objects: tuple[Object, ...]
    layout: str
    style: str
    background: str
    offsets: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        _check("layout", self.layout, LAYOUTS)
        _check("style", self.style, STYLES)
        _check("background", self.background, BACKGROUNDS)
        slots = len(LAYOUTS[self.layout])
        if len(self.objects) != slots or len(self.offsets) != slots:
            raise ValueError(
                f"layout is {self.layout!r}, which has {slots} slots; objects has {len(self.objects)}"
                f" and offsets {len(self.offsets)}"
            )
        if len({(thing.shape, thing.colour) for thing in self.objects}) != slots:
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
    """Radius in frame units of an object of that size in a scene with that many objects."""
    return SIZES[size] * (ALONE_SCALE if num_objects == 1 else 1.0)


def layouts_of(num_objects: int) -> tuple[str, ...]:
    """The layouts with that many slots, in a fixed order."""
    return tuple(name for name, slots in LAYOUTS.items() if len(slots) == num_objects)


def specification(scene: Scene) -> str:
    """The discrete specification as text: equal for two scenes that differ in jitter only."""
    things = (f"{thing.size} {thing.colour} {thing.shape}" for thing in scene.objects)
    return "|".join((scene.layout, scene.style, scene.background, *things))


def novel_pair(scene: Scene) -> bool:
    """Whether an object has a shape and a colour that training never sees together (`HELD_OUT_PAIRS`)."""
    return any((thing.shape, thing.colour) in HELD_OUT_PAIRS for thing in scene.objects)


def held_out(scene: Scene) -> bool:
    """Whether training never sees this specification: its objects are a novel pair, or its hash says so.

    The hash holds out 1/8 of all specifications: those whose SHA-256 begins with a byte that leaves 4 modulo 8 (of the
    eight remainders one that holds out 1/8 of the 576 scenes of one object too; 0 would hold out 1/13 of them).
    """
    return novel_pair(scene) or hashlib.sha256(specification(scene).encode()).digest()[0] % 8 == 4


def sample_scene(rng: np.random.Generator, split: Split = "train", num_objects: int | None = None) -> Scene:
    """A random scene: every attribute uniform and independent, given the split and that no two objects are alike.

    Args:
        rng: the source of all randomness.
        split: "train" gives only scenes that are not held out, "test" only held-out ones.
        num_objects: 1, 2 or 3; None draws it uniformly.

    Raises:
        ValueError: `split` or `num_objects` is none of the allowed ones.
    """
    _check("split", split, ("train", "test"))
    if num_objects is not None:
        _check("num_objects", num_objects, COUNTS)
    count = num_objects if num_objects is not None else int(rng.integers(1, 4))
    while True:
        scene = _any_scene(rng, count)
        if held_out(scene) == (split == "test"):
            return scene


def _any_scene(rng: np.random.Generator, count: int) -> Scene:
    names = list(COLOURS)
    pairs = rng.choice(len(SHAPES) * len(names), size=count, replace=False)
    sizes = rng.integers(0, len(SIZES), size=count)
    objects = tuple(
        Object(SHAPES[pair // len(names)], names[pair % len(names)], list(SIZES)[size])
        for pair, size in zip(pairs.tolist(), sizes.tolist(), strict=True)
    )
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
