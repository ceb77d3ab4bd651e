"""What files that the user opens are to the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ediffi.io.image_input import read_image
from ediffi.studio.gallery import Gallery

MAX_FILE_MB = 50
"""Larger files are not uploaded."""


@dataclass(frozen=True)
class Opened:
    """The content of opened files: the name of a source image in the gallery, and what the user is told of it."""

    source: str
    notices: tuple[str, ...] = ()


def open_files(gallery: Gallery, paths: Sequence[Path]) -> Opened:
    """Store an image as one to change or enlarge; ValueError: there are several, or it is none."""
    if len(paths) != 1:
        raise ValueError(f"{len(paths)} files were opened; open one image")
    (path,) = paths
    image = read_image(path.read_bytes(), path.name)
    size = f"{path.name} is {image.width}x{image.height}"
    notices = () if image.width == image.height else (f"{size}: its centre square is used",)
    return Opened(gallery.add_source(image, path.name), notices)
