"""Datasets of captioned images: the protocol, the reproducible selection, and datasets of photographs."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image

from ediffi.io.files import replace
from ediffi.io.images import BadImageError, open_image, rgb, square


class CaptionedImage(NamedTuple):
    """A caption and the image it describes."""

    key: str  # id of the annotation, unique in its dataset
    caption: str
    image_id: str  # several captions may share one


@runtime_checkable
class CaptionDataset(Protocol):
    """A dataset that models are evaluated on."""

    name: str

    @property
    def protocol(self) -> Mapping[str, Any]:
        """JSON values: what was read, and by which rules; files, counts, what was left out."""
        ...

    def items(self) -> Sequence[CaptionedImage]:
        """Every caption."""
        ...

    def reference(self, item: CaptionedImage, size: int) -> Image.Image:
        """The item's image: RGB, the centre square, `size` pixels a side; ValueError if it is missing or broken."""
        ...

    def measure(self, item: CaptionedImage, image: Image.Image) -> Mapping[str, float]:
        """The dataset's own measures of an image generated from the caption, 0 to 1; nan where one does not apply."""
        ...


class Controls(NamedTuple):
    """What a prompt comes with besides its words: a style image; and areas (left, top, right, bottom; fractions of the
    side, from the top left) in which phrases of the prompt are painted."""

    style: Image.Image | None = None
    areas: Sequence[tuple[str, tuple[float, ...]]] = ()


@runtime_checkable
class ControlledDataset(CaptionDataset, Protocol):
    """A dataset whose prompts come with controls."""

    def controls(self, item: CaptionedImage) -> Controls:
        """Those of an item."""
        ...


@dataclass(eq=False)
class PhotographDataset:
    """A `CaptionDataset` of photographs in files, without measures.

    `shapes` has the (width, height) of each photograph by `image_id`, as in the annotations; `path` gives its file.
    """

    name: str
    protocol: Mapping[str, Any]
    captions: Sequence[CaptionedImage]
    shapes: Mapping[str, tuple[int, int]]
    path: Callable[[str], Path]

    def items(self) -> Sequence[CaptionedImage]:
        """Every caption."""
        return self.captions

    def reference(self, item: CaptionedImage, size: int) -> Image.Image:
        """The item's photograph, see `CaptionDataset`; raises BadImageError if it is missing or broken."""
        try:
            return square(rgb(open_image(self.path(item.image_id))), size)
        except FileNotFoundError as error:
            raise BadImageError(f"{error}; `ediffi evaluate prepare` says what is missing") from None

    def measure(self, item: CaptionedImage, image: Image.Image) -> dict[str, float]:
        """Nothing: photographs have no ground truth."""
        return {}


def select(items: Sequence[CaptionedImage], count: int, seed: int = 0) -> list[CaptionedImage]:
    """`count` items with different images: a pure function of the seed and the keys, whatever the order of `items`.

    Items are ordered by the SHA-256 of "seed:key"; an image is represented by the first of its captions, and the first
    `count` images are taken. So a selection of 5,000 begins a selection of 30,000. Our choice: the paper says "30K
    random captions", and no two of the same image keep the reference set as large as the generated one.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    times = Counter(item.key for item in items)
    if twice := sorted(key for key, number in times.items() if number > 1):
        more = f", and so do {len(twice) - 1} other ids" if len(twice) > 1 else ""
        raise ValueError(f"the id {twice[0]!r} stands for several captions{more}")
    first: dict[str, CaptionedImage] = {}
    for item in sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.key}".encode()).digest()):
        first.setdefault(item.image_id, item)
    if len(first) < count:
        raise ValueError(f"count is {count}, and there are captions of only {len(first)} different images")
    return list(first.values())[:count]


def each_image(items: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """An item of every image, by `image_id`: the one with the smallest key. So neither order nor seed matters."""
    first: dict[str, CaptionedImage] = {}
    for item in sorted(items, key=lambda item: (item.image_id, item.key)):
        first.setdefault(item.image_id, item)
    return list(first.values())


def fingerprint(items: Sequence[CaptionedImage]) -> str:
    """SHA-256 of a selection, as a hexadecimal number: keys, captions and image ids, in order."""
    lines = (json.dumps([item.key, item.caption, item.image_id], ensure_ascii=False) + "\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_selection(items: Sequence[CaptionedImage], path: Path) -> None:
    """Write a selection as JSON lines: line k is the item of image k. The key "picture" is `image_id`."""
    rows = ({"key": item.key, "caption": item.caption, "picture": item.image_id} for item in items)
    replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
