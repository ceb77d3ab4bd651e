"""What an index records of the images of a shard, so that a run need not meet it: their sizes, and transparency."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ediffi.data.tar import IMAGES, RawSample
from ediffi.io.images import is_transparent, open_image


def image_bytes(raw: Mapping[str, Any]) -> bytes:
    """The encoded image of a sample that has one."""
    return next(raw[suffix] for suffix in IMAGES if suffix in raw)


def side_and_transparency(raw: Mapping[str, Any]) -> tuple[int, bool]:
    """Shortest side of a sample's image, in pixels, and whether it is transparent. Only an image with an alpha channel
    is decoded. ValueError: not even its header can be read."""
    data, name = image_bytes(raw), f"the image of sample {raw['__key__']!r}"
    image = open_image(data, name, decode=False)
    return min(image.size), image.has_transparency_data and is_transparent(open_image(data, name))


def side_of(raw: Mapping[str, Any]) -> int:
    """Shortest side of a sample's image, in pixels, as its header says; 0 if that cannot be read."""
    try:
        return min(open_image(image_bytes(raw), decode=False).size)
    except ValueError:
        return 0


@dataclass
class ImageFacts:
    """Counts of the images of a shard, or of several.

    `sides` is how many images have a shortest side, in pixels; 0 is that of an image that cannot be read. `smallest` is
    the key of the first sample with the least one.
    """

    sides: Counter[int] = field(default_factory=Counter)
    smallest: str | None = None
    transparent: int = 0

    def add(self, raw: RawSample) -> None:
        """Count the image of a sample that has one."""
        try:
            side, transparent = side_and_transparency(raw)
        except ValueError:
            side, transparent = 0, False
        self.update(ImageFacts(Counter([side]), raw["__key__"], int(transparent)))

    def update(self, other: "ImageFacts") -> None:
        """Add the counts of other images."""
        if other.sides and (not self.sides or min(other.sides) < min(self.sides)):
            self.smallest = other.smallest
        self.sides.update(other.sides)
        self.transparent += other.transparent

    def lines(self) -> Iterator[str]:
        """What a reader of the shards should know, as text."""
        if broken := self.sides[0]:
            share = f"{broken:,} of {self.sides.total():,} images"
            yield f"{share} cannot be read (ediffi data verify names them), the first is {self.smallest!r}"
        elif self.sides and (least := min(self.sides)):
            yield f"shortest sides: {least} to {max(self.sides)} pixels; {least} is that of sample {self.smallest!r}"
        if self.transparent:
            share = f"{self.transparent:,} of {self.sides.total():,} images"
            yield f"{share} are transparent: they are laid on a background (data.background, white by default)"

    def entry(self) -> dict[str, Any]:
        """What the index says of the shard, plain JSON."""
        sides = {str(side): count for side, count in sorted(self.sides.items())}
        return {"sides": sides, "smallest": self.smallest, "transparent": self.transparent}
