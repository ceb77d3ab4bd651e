"""Whether an image, as the oracle read it, shows what a caption names."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np

from ediffi.evaluation.datasets.toybox.caption import Caption
from ediffi.evaluation.datasets.toybox.oracle import DetectedObject, Reading, by_slot
from ediffi.evaluation.datasets.toybox.scene import Scene


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
