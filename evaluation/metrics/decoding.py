"""Decode images in the processes of a DataLoader, beside the networks; errors arrive as they were raised."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ediffi.evaluation.images.numbered import NumberedImages
from ediffi.evaluation.metrics.rows import BROKEN, FINE, ODD
from ediffi.io.images import BadImageError, oddity, rgb, square

Measure = Callable[[int, Image.Image], Mapping[str, float]]
"""Takes the number of an image and the image, 8-bit RGB."""
Prepare = Callable[[Image.Image], Tensor]

Decoded = tuple[int, tuple[Tensor, ...], list[float]]
"""State, prepared tensors and measurements of an image; the latter two are empty for a broken one."""
DecodedBatch = tuple[np.ndarray, tuple[Tensor, ...], np.ndarray]
"""States of a block of images; of those that are not broken: each network's input, and what was measured [b, k]."""


@dataclass(frozen=True)
class ImageDecoder:
    """Decodes and checks an image, and prepares it for each network: a dataset for torch's DataLoader."""

    images: NumberedImages
    strict: bool  # refuse unusual and broken images, instead of converting or leaving them out
    size: tuple[int, int] | None = None  # width and height that every image must have; None for any
    resize: bool = False  # make images of another size square, instead of refusing them
    prepares: Sequence[Prepare] = ()  # one for each network
    measure: Measure | None = None
    fields: Sequence[str] = ()  # names of what `measure` returns

    def image(self, index: int) -> tuple[Image.Image, int] | None:
        """The image as 8-bit RGB, and its state; None if it is broken and `strict` is false."""
        try:
            image = self.images[index]
            odd = oddity(image)
        except (BadImageError, FileNotFoundError):
            if self.strict:
                raise
            return None
        if odd and self.strict:
            raise BadImageError(f"{self.images.name(index)} is not a plain 8-bit RGB image, but {odd}")
        if self.size and image.size != self.size:
            if not self.resize:
                found, wanted = ("x".join(map(str, size)) for size in (image.size, self.size))
                advice = "resize them yourself, or give --other-sizes resized (in a suite, other_sizes: resized)"
                raise ValueError(f"{self.images.name(index)} is {found} and images of {wanted} are judged: {advice}")
            image = square(rgb(image), self.size[0])
        return rgb(image), FINE if odd is None else BROKEN + 1 + ODD.index(odd if odd in ODD else "other")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Decoded | Exception:
        """An image, or its error: one that is raised in a process of the loader arrives with a traceback as message."""
        try:
            if (found := self.image(index)) is None:
                return BROKEN, (), []
            image, state = found
            measured = dict(self.measure(index, image)) if self.measure else {}
            if tuple(measured) != tuple(self.fields):
                raise ValueError(f"measurements of {self.images.name(index)} are {list(measured)}, not {self.fields}")
            return state, tuple(prepare(image) for prepare in self.prepares), list(measured.values())
        except (ValueError, OSError) as error:
            return error

    def collate(self, items: Sequence[Decoded | Exception]) -> DecodedBatch | Exception:
        """The block of these images, or its first error."""
        for item in items:
            if isinstance(item, Exception):
                return item
        decoded = [item for item in items if not isinstance(item, Exception)]
        whole = [item for item in decoded if item[0] != BROKEN]
        prepared = tuple(torch.stack(tensors) for tensors in zip(*(item[1] for item in whole), strict=True))
        measured = np.array([item[2] for item in whole], np.float64).reshape(len(whole), len(self.fields))
        return np.array([item[0] for item in decoded], np.uint8), prepared, measured


def first_image(decoder: ImageDecoder) -> tuple[int, Image.Image]:
    """The number of the first image that is not broken, and the image; ValueError if there is none."""
    for index in range(len(decoder)):
        if found := decoder.image(index):
            return index, found[0]
    raise ValueError(f"none of {len(decoder)} images can be read" if len(decoder) else "there are no images")


def decode(
    decoder: ImageDecoder, blocks: Sequence[range], num_workers: int, pin_memory: bool
) -> Iterator[DecodedBatch]:
    """Decode blocks of consecutive images, in order; inside `worker_deaths`."""
    loader: DataLoader[Any] = DataLoader(
        decoder,  # type: ignore[arg-type]  # it has a length and items, as a Dataset has
        batch_sampler=[list(block) for block in blocks],
        num_workers=num_workers,
        collate_fn=decoder.collate,
        pin_memory=pin_memory,
    )
    arriving = iter(loader)
    try:
        for _ in blocks:
            try:
                found = next(arriving)
            except (OSError, EOFError) as error:  # errors of images are returned, so this is a broken connection
                if not num_workers:
                    raise
                raise RuntimeError(f"DataLoader worker lost: {error or type(error).__name__}") from None
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        # Now, by hand: an error keeps this frame alive, and the collector would wait 5 seconds for the workers.
        del arriving


@contextmanager
def worker_deaths() -> Iterator[None]:
    """Report a process of the loader that died; torch raises its RuntimeError anywhere in the main process."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        advice = "allow more memory, or set num_workers=0"
        raise OSError(f"a process that decodes images died ({reason}): {advice}") from None
