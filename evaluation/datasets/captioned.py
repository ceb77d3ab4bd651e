"""What the judge wants of a data set: captions with ids, their pictures, and a selection that anyone can repeat."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from ediffi.io.images import BadImageError, open_image, rgb, square


@dataclass(frozen=True)
class Item:
    """A caption and its picture.

    Attributes:
        key: id of the annotation, unique in its data set.
        caption: the prompt.
        picture: id of the picture it describes; several captions may share one.
    """

    key: str
    caption: str
    picture: str


@runtime_checkable
class CaptionedPictures(Protocol):
    """A data set that models are judged on.

    Attributes:
        name: "coco2014", "visual-genome", "toybox".
        protocol: plain JSON values that say what was read, and by which rules: files, counts, what was left out.
    """

    name: str
    protocol: Mapping[str, Any]

    def items(self) -> Sequence[Item]:
        """Every caption."""
        ...

    def reference(self, item: Item, size: int) -> Image.Image:
        """The item's picture: RGB, the centre square, `size` a side.

        Raises:
            ValueError: the picture is missing or broken.
        """
        ...

    def measure(self, item: Item, image: Image.Image) -> Mapping[str, float]:
        """What else the data set can tell of a picture made from the caption, 0 to 1; nan where it does not apply.

        Empty for photographs. Toybox's oracle reads the picture back.
        """
        ...


def select(items: Sequence[Item], count: int, seed: int = 0) -> list[Item]:
    """`count` items with different pictures: a pure function of the seed and the ids, whatever the order of `items`.

    Items are ordered by the SHA-256 of "seed:key"; a picture is represented by the first of its captions, and the first
    `count` pictures are taken. So a selection of 5,000 begins a selection of 30,000. Our choice: the paper says "30K
    random captions", and no two of the same picture keep the reference set as large as the generated one.

    Raises:
        ValueError: fewer than `count` pictures, `count` below 1, or a key that stands for two items.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    times = Counter(item.key for item in items)
    if twice := sorted(key for key, number in times.items() if number > 1):
        raise ValueError(
            f"of {len(times)} annotation ids {len(twice)} stand for several captions, the first is {twice[0]!r}"
        )
    ordered = sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.key}".encode()).digest())
    first = {item.picture: item for item in reversed(ordered)}
    chosen = [item for item in ordered if first[item.picture] is item]
    if len(chosen) < count:
        raise ValueError(f"{count} captions of different pictures were asked for, and there are {len(chosen)}")
    return chosen[:count]


def fingerprint(items: Sequence[Item]) -> str:
    """SHA-256 of a selection, as a hexadecimal number: keys, captions and pictures, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.key, item.caption, item.picture], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def write_selection(items: Sequence[Item], path: Path) -> None:
    """Write a selection as JSON lines, the item of picture k in line k; written beside and renamed into place."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text("".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    beside.replace(path)


def photograph(path: Path, size: int) -> Image.Image:
    """A photograph as a reference picture: RGB, the centre square, `size` a side.

    Raises:
        BadImageError: it is missing or broken.
    """
    try:
        return square(rgb(open_image(path)), size)
    except FileNotFoundError:
        raise BadImageError(f"no picture {path}; `ediffi evaluate prepare` says what is missing") from None
