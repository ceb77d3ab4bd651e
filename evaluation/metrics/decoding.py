"""Pictures decoded beside the networks: once each, for all that wants to see them; errors come back as they were."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ediffi.evaluation.images.numbered import Pictures
from ediffi.evaluation.metrics.rows import BROKEN, FINE, ODD
from ediffi.io.images import BadImageError, oddity, rgb

Measure = Callable[[int, Image.Image], Mapping[str, float]]
"""Takes the number of a picture and the picture, 8-bit RGB."""
Prepare = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Batch:
    """A block of pictures, decoded.

    Attributes:
        start: number of the first.
        states: of each, see `ediffi.evaluation.metrics.rows`.
        prepared: for each of the preparations, those pictures that are not broken.
        measured: what was measured of them, [b, k].
    """

    start: int
    states: np.ndarray
    prepared: tuple[Tensor, ...]
    measured: np.ndarray


@dataclass(frozen=True)
class Decoder:
    """Decodes a picture, checks it, and prepares it for each of the networks.

    Attributes:
        pictures: what is decoded.
        strict: refuse odd and broken pictures, instead of converting or leaving them out.
        size: width and height that they have to have; None for any.
        prepares: the preparations.
        measure: what else is measured, and under which names.
        fields: the names.
    """

    pictures: Pictures
    strict: bool
    size: tuple[int, int] | None = None
    prepares: Sequence[Prepare] = ()
    measure: Measure | None = None
    fields: Sequence[str] = ()

    def image(self, index: int) -> tuple[Image.Image, int] | None:
        """The picture as 8-bit RGB, and its state; None if it is broken, and that is allowed.

        Raises:
            BadImageError: it is broken or odd.
            FileNotFoundError: it is not there.
            ValueError: it has another size than the rest.
        """
        try:
            image = self.pictures[index]
            odd = oddity(image)
        except (BadImageError, FileNotFoundError):
            if self.strict:
                raise
            return None
        if odd and self.strict:
            raise BadImageError(f"{self.pictures.name(index)} is not a plain 8-bit RGB picture, but {odd}")
        if self.size and image.size != self.size:
            found, wanted = ("x".join(map(str, size)) for size in (image.size, self.size))
            raise ValueError(f"{self.pictures.name(index)} is {found} and those before it are {wanted}: give one size")
        state = FINE if odd is None else BROKEN + 1 + ODD.index(odd if odd in ODD else "other")
        return rgb(image), state

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> "tuple[int, tuple[Tensor, ...], list[float]] | int | Exception":
        """State, prepared pictures and measurements; the state alone of a broken picture; or the error, to be raised.

        An error that is raised in a process of the loader would arrive with its stack trace for a message.
        """
        try:
            found = self.image(index)
            if found is None:
                return BROKEN
            image, state = found
            measured = dict(self.measure(index, image)) if self.measure else {}
            if tuple(measured) != tuple(self.fields):
                raise ValueError(
                    f"{self.pictures.name(index)} was measured in {list(measured)}, and others in {list(self.fields)}"
                )
            return state, tuple(prepare(image) for prepare in self.prepares), list(measured.values())
        except (ValueError, OSError) as error:
            return error


def first_picture(decoder: Decoder) -> tuple[int, Image.Image]:
    """The first picture that can be read, and its number.

    Raises:
        ValueError: there are none, or the first is broken and that is not allowed.
    """
    for index in range(len(decoder)):
        if found := decoder.image(index):
            return index, found[0]
    raise ValueError(f"none of {len(decoder)} pictures can be read" if len(decoder) else "there are no pictures")


def batches(decoder: Decoder, blocks: Sequence[range], num_workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Decode blocks of consecutive pictures, in order.

    Args:
        decoder: decodes one.
        blocks: numbers of the pictures.
        num_workers: processes that decode; 0 for this one.
        pin_memory: for a GPU.

    Raises:
        ValueError: what the decoder raises; the first of the block.
        OSError: a picture is not there, or a process died.
    """
    loader: DataLoader[Any] = DataLoader(
        decoder,  # type: ignore[arg-type]  # as a Dataset has, it has a length and items
        batch_sampler=[list(block) for block in blocks],
        num_workers=num_workers,
        collate_fn=_Stacked(len(decoder.prepares), len(decoder.fields)),
        pin_memory=pin_memory,
    )
    arriving = iter(loader)
    try:
        for block in blocks:
            found = _next(arriving, num_workers)
            if isinstance(found, Exception):
                raise found
            yield Batch(block.start, *found)
    finally:
        # Now, and by hand: an error holds on to this frame, and the collector would wait 5 seconds for the processes.
        del arriving


@contextmanager
def deaths_said() -> Iterator[None]:
    """Turns torch's error for a process of the loader that died, raised wherever this one is, into one sentence.

    Raises:
        OSError: a process that decodes died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _death(error) from None


def _next(arriving: Iterator[Any], num_workers: int) -> Any:
    """What arrives next. Errors of pictures arrive too: an OSError that is raised is of a connection that broke."""
    try:
        return next(arriving)
    except (OSError, EOFError) as error:
        if not num_workers:
            raise
        raise _death(error) from None


def _death(error: Exception) -> OSError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return OSError(f"a process that decodes pictures died ({reason}): allow more memory, or num_workers=0")


@dataclass(frozen=True)
class _Stacked:
    prepares: int
    fields: int

    def __call__(self, items: list[Any]) -> Any:
        for item in items:
            if isinstance(item, Exception):
                return item
        states = np.array([item if isinstance(item, int) else item[0] for item in items], np.uint8)
        whole = [item for item in items if not isinstance(item, int)]
        prepared = tuple(torch.stack([item[1][n] for item in whole]) for n in range(self.prepares) if whole)
        measured = np.array([item[2] for item in whole], np.float64).reshape(len(whole), self.fields)
        return states, prepared, measured
