"""Pairs of the images of a set, as one wide image each: for measures that compare two images of one system."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ediffi.evaluation.metrics.decoding import ImageDecoder
from ediffi.io.images import BadImageError

SEED = 2020


def partners(captions: Sequence[str], seed: int = SEED) -> list[int]:
    """The other image of each image's pair: the next of the same caption, in a circle, if every caption has several
    images; otherwise the next in a circle of all images, whose order is drawn by `seed`. ValueError: one image."""
    if len(captions) < 2:
        raise ValueError(f"a pair needs 2 images, got {len(captions)}")
    same: dict[str, list[int]] = defaultdict(list)
    for number, caption in enumerate(captions):
        same[caption].append(number)
    circles = list(same.values())
    if min(map(len, circles)) < 2:
        circles = [np.random.default_rng(seed).permutation(len(captions)).tolist()]
    found = [0] * len(captions)
    for circle in circles:
        for number, other in zip(circle, [*circle[1:], circle[0]], strict=True):
            found[number] = other
    return found


@dataclass(frozen=True)
class ImagePairs:
    """`NumberedImages`: image k is image k of a set beside its partner, as both are judged."""

    decoder: ImageDecoder
    partner: Sequence[int]

    def __len__(self) -> int:
        return len(self.partner)

    def __getitem__(self, index: int) -> Image.Image:
        found = [self.decoder.image(number) for number in (index, self.partner[index])]
        images = [one[0] for one in found if one is not None]
        if len(images) < 2:
            raise BadImageError(f"{self.name(index)} is no pair: an image is broken")
        wide = Image.new("RGB", (2 * images[0].width, images[0].height))
        for number, image in enumerate(images):
            wide.paste(image, (number * image.width, 0))
        return wide

    def name(self, index: int) -> str:
        """The names of both."""
        return f"{self.decoder.images.name(index)} beside {self.decoder.images.name(self.partner[index])}"

    def fingerprint(self) -> str:
        """SHA-256 of the images' own, and of the pairs."""
        known = [self.decoder.images.fingerprint(), list(self.partner)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()
