"""What files that the user opens are to the page: a painting of ours, a layout, a mask, or an image to start from."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ediffi.diffusion.layout import Region, read_layout
from ediffi.io import png
from ediffi.io.image_input import read_image, read_mask
from ediffi.studio.canvas import FAINTEST, CanvasLayout, levels_of, mask_url
from ediffi.studio.gallery import Gallery

MAX_FILE_MB = 50
"""Larger files are not uploaded."""
OVERLAP = 0.01
"""Regions that overlap on a smaller share of the canvas, as at smooth edges, are not told."""


@dataclass(frozen=True)
class Painting:
    """An image of ediffi, by its name in the gallery."""

    name: str


@dataclass(frozen=True)
class Source:
    """An image to change or enlarge, by its name in the gallery's sources, and what the user is told of it."""

    name: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A layout, and what the user is told of it."""

    layout: CanvasLayout
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mask:
    """The area to repaint as a PNG data URL, opaque there, and what the user is told of it."""

    url: str
    notices: tuple[str, ...] = ()


def open_files(gallery: Gallery, paths: Sequence[Path]) -> Painting | Source | Layout:
    """An image, or a layout with the mask files that it names.

    ValueError: it is neither, or there are several. An image with our settings is kept in the gallery.
    """
    layouts = [path for path in paths if path.suffix.lower() == ".json"]
    if len(layouts) > 1 or (not layouts and len(paths) != 1):
        raise ValueError(f"{len(paths)} files were opened; open one image, or one layout with its masks")
    if layouts:
        return _layout(layouts[0], paths)
    (path,) = paths
    image = read_image(path.read_bytes(), path.name)
    if _is_painting(path):
        return Painting(gallery.keep(path))
    size = f"{path.name} is {image.width}x{image.height}"
    notices = () if image.width == image.height else (f"{size}: its centre square is used",)
    return Source(gallery.add_source(image, path.name), notices)


def open_mask(path: Path) -> Mask:
    """A mask as `ediffi edit --mask` reads it; ValueError: it is none, or it is black."""
    levels = read_mask(path.read_bytes(), path.name)
    height, width = levels.shape
    if height != width:
        raise ValueError(f"{path.name} is {width}x{height}; a mask must be square, as the image is")
    if not levels.any():
        raise ValueError(f"{path.name} is black everywhere; a mask is white where the image is repainted")
    return Mask(mask_url(levels))


def _is_painting(path: Path) -> bool:
    try:
        return bool(png.settings_of(path))
    except (ValueError, RecursionError):
        return False


def _layout(path: Path, files: Sequence[Path]) -> Layout:
    with TemporaryDirectory(prefix="ediffi-layout-") as folder:  # uploads lie in folders of their own
        for file in files:
            shutil.copyfile(file, Path(folder) / file.name)
        try:
            regions = read_layout(Path(folder) / path.name)
        except (ValueError, OSError) as error:
            text = str(error).replace(f"{folder}/", "")
            hint = "; open it together with the layout" if isinstance(error, OSError) else ""
            raise ValueError(text + hint) from None
    return Layout(CanvasLayout.of_regions(regions), tuple(losses(regions)))


def losses(regions: Sequence[Region]) -> list[str]:
    """What the canvas cannot show of a layout: each of its pixels belongs to one phrase."""
    if len(regions) < 2:
        return []
    lost = np.sort(levels_of(regions), axis=0)[:-1]
    share = (lost.max(0) >= FAINTEST).mean()
    if share <= OVERLAP:
        return []
    return [f"regions overlap on {share:.0%} of the canvas: each pixel is shown and used as the stronger one's"]
