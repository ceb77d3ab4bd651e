"""Images by number: what the metrics read, whoever made the images and wherever they are stored."""

from typing import Protocol, runtime_checkable

from PIL import Image


@runtime_checkable
class NumberedImages(Protocol):
    """Images 0 to `len - 1`, one for each caption, in the order of the captions."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image:
        """The decoded image, in its own mode; BadImageError if it is broken, FileNotFoundError if it is missing."""
        ...

    def name(self, index: int) -> str:
        """The image's name in messages."""
        ...

    def fingerprint(self) -> str:
        """SHA-256, as a hexadecimal number, that changes when the images change."""
        ...


def check_number(index: int, count: int) -> int:
    """`index`, if it is the number of one of `count` images; negative numbers are an IndexError too."""
    if not 0 <= index < count:
        raise IndexError(f"no image {index} among {count}")
    return index
