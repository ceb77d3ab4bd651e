"""Whether a picture, as the oracle read it, shows what a caption names."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np

from ediffi.evaluation.datasets.toybox.caption import Caption
from ediffi.evaluation.datasets.toybox.oracle import Reading, Seen, by_slot
from ediffi.evaluation.datasets.toybox.scene import Object, Scene


@dataclass(frozen=True)
class Score:
    """Whether a picture is right, field by field; None where the caption does not name it.

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

    Objects are matched by place: each to the slot of the scene's layout that it is nearest to, all slots taken. Where
    the caption does not name the layout, they are matched so that most is right. With a wrong count nothing can be
    matched, and shape, colour, size, style and layout are all wrong.
    """
    right = len(reading.objects) == len(scene.objects)
    match = by_slot(reading.objects, scene.layout) if right and "layout" in caption.named else _likest(scene, reading)
    pairs = list(zip(scene.objects, match, strict=True)) if right else []

    def named(name: str, value: bool) -> bool | None:
        return value if name in caption.named else None

    fields: dict[str, bool | None] = {
        "background": named("background", reading.background == scene.background),
        "count": right,
        "layout": named("layout", right and reading.layout == scene.layout),
        "shape": right and all(thing.shape == seen.shape for thing, seen in pairs),
        "colour": right and all(thing.colour == seen.colour for thing, seen in pairs),
        "size": named("size", right and all(thing.size == seen.size for thing, seen in pairs)),
        "style": named("style", right and reading.style == scene.style),
    }
    return Score(**fields, everything=all(value is not False for value in fields.values()))  # type: ignore[arg-type]


def _likest(scene: Scene, reading: Reading) -> Sequence[Seen]:
    """The objects of a picture in the order in which most of them is what the scene says."""

    def alike(thing: Object, seen: Seen) -> int:
        return (thing.shape == seen.shape) + (thing.colour == seen.colour) + (thing.size == seen.size)

    def total(order: Sequence[Seen]) -> int:
        return sum(alike(thing, seen) for thing, seen in zip(scene.objects, order, strict=False))

    return max(permutations(reading.objects), key=total)


def accuracy(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of each field over the scores that have it, 0 to 1; nan where none has."""
    rows = [asdict(one) for one in scores]
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in Score.__dataclass_fields__}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in columns.items()}
