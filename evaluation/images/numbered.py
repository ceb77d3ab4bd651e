"""Pictures by number: what the judge reads, and what a run that makes them writes to."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

Write = Callable[[int, Image.Image, str], None]
"""Takes the number of a picture, the picture, and its prompt."""


@runtime_checkable
class Pictures(Protocol):
    """Pictures 0 to `len - 1`, all of them there."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image:
        """The picture, decoded, in its own mode.

        Raises:
            FileNotFoundError: it is not there.
            BadImageError: it is broken.
        """
        ...

    def name(self, index: int) -> str:
        """What a message calls it."""
        ...

    def fingerprint(self) -> str:
        """SHA-256, as a hexadecimal number, that changes when the pictures do."""
        ...


@dataclass(frozen=True)
class Stock:
    """What is there of some pictures.

    Attributes:
        missing: numbers of those to be made, in order; the broken ones among them.
        broken: how many were there, and are broken.
    """

    missing: Sequence[int]
    broken: int = 0


@runtime_checkable
class Store(Pictures, Protocol):
    """Pictures that are being made; complete, or to be gone on with.

    Attributes:
        folder: where they are.
        layout: plain JSON values that say how they are kept; a part of what the folder is for.
    """

    folder: Path
    layout: Mapping[str, Any]

    def unit(self, batch_size: int) -> int:
        """How many consecutive pictures are made by one process, and gone on with as one.

        Raises:
            ValueError: batches of this size do not fill it.
        """
        ...

    def count(self) -> int:
        """How many pictures are there, by their names alone."""
        ...

    def strangers(self) -> list[str]:
        """Names of files that look like this store's, and cannot be."""
        ...

    def stock(self, numbers: range, settings: str) -> Stock:
        """Look at each of a unit's pictures that is there: is it whole, and is it the one?

        Args:
            numbers: of the unit.
            settings: SHA-256 of what the folder is for.

        Raises:
            ValueError: a picture is whole, and was made with other settings or for another place.
        """
        ...

    def writing(self, numbers: range, settings: str) -> AbstractContextManager[Write]:
        """A context in which the unit's missing pictures are written."""
        ...

    def finish(self, settings: str) -> None:
        """Done once, when all processes are.

        Raises:
            ValueError: a picture is missing.
        """
        ...


def check_complete(store: Store) -> None:
    """Make sure that every picture is there, by name.

    Raises:
        ValueError: one is missing.
    """
    if (found := store.count()) != len(store):
        raise ValueError(
            f"{store.folder} has {found} of {len(store)} pictures, though every process is done; "
            "is it one and the same folder for all of them?"
        )
