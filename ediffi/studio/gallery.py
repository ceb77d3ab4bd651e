"""The gallery: a folder of generated images with their settings, and of the images that they were made from."""

import hashlib
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.io import png
from ediffi.io.files import replacing
from ediffi.io.image_input import ImageInput, read_image
from ediffi.io.images import square
from ediffi.pipeline import inputs as call_inputs

STYLES, SOURCES = "styles", "sources"
"""Subfolders of the style images, and of the images that were changed or enlarged."""
DELETED = "deleted"
"""Subfolder of the images that the user deleted, which nothing else empties."""
MAX_LISTED = 120
"""How many of the newest images the page lists."""
INPUT_SIDE = 1024
"""Largest side in pixels of a stored style or source image: CLIP reads far fewer pixels, and no model makes more."""


@dataclass(frozen=True)
class GalleryImage:
    """An image of the gallery, by its file name."""

    name: str
    settings: Mapping[str, Any]  # that it was generated with


class Gallery:
    """PNG files of the studio and of any other command of ediffi, in a folder that is made if it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        for inputs in (STYLES, SOURCES):
            (self.folder / inputs).mkdir(parents=True, exist_ok=True)
        self._cache: dict[tuple[str, int], GalleryImage | None] = {}

    def add(self, images: Sequence[Image.Image], settings: Mapping[str, Any], inputs: Sequence[str] = ()) -> list[str]:
        """Save the images of one call, each with the settings and its own index; returns the file names.

        Each file also holds `inputs`, style and source images by their paths in the folder, so that it can be taken
        elsewhere.
        """
        stem = self._free_stem()
        names = [f"{stem}-{index}.png" for index in range(len(images))]
        content = {name: (self.folder / name).read_bytes() for name in inputs}
        for index in reversed(range(len(images))):  # the first image gets the newest time
            png.save(images[index], self.folder / names[index], {**settings, "index": index}, content)
        return names

    def keep(self, path: Path) -> str:
        """Store an image of ediffi from elsewhere, and the images that it was made from; returns its name.

        ValueError: it holds no settings, or is broken.
        """
        png.settings_of(path)
        for name, content in png.inputs_of(path).items():
            folder = name.partition("/")[0]
            if folder == call_inputs.FOLDER:  # of another command
                continue
            if folder not in (STYLES, SOURCES):
                raise ValueError(
                    f"{path.name} is broken: it holds {name!r}, which is of neither {STYLES} nor {SOURCES}"
                )
            self._add_input(folder, read_image(content, f"{name} in {path.name}"))
        content = path.read_bytes()
        here = self.folder / path.name
        if here.is_file() and here.read_bytes() == content:
            return here.name
        name = f"{self._free_stem()}-0.png"
        with replacing(self.folder / name) as beside:
            beside.write_bytes(content)
        return name

    def delete(self, name: str) -> Path:
        """Move an image to the folder of deleted ones; returns where it is now. FileNotFoundError: there is none."""
        path, trash = self.folder / self.image(name).name, self.folder / DELETED
        trash.mkdir(exist_ok=True)
        copies = (f"{path.stem}{f'-{number}' if number else ''}.png" for number in itertools.count())
        return path.rename(next(trash / copy for copy in copies if not (trash / copy).exists()))

    def _free_stem(self) -> str:
        now = time.strftime("%Y%m%d-%H%M%S")
        stems = (f"{now}-{number}" if number else now for number in itertools.count())
        return next(stem for stem in stems if not (self.folder / f"{stem}-0.png").exists())

    def images(self, limit: int = MAX_LISTED) -> list[GalleryImage]:
        """The images of ediffi in the folder, the newest first; other files are skipped."""
        found = (self._read(path) for path in sorted(self.folder.glob("*.png"), key=_newest_first))
        return list(itertools.islice((image for image in found if image is not None), limit))

    def image(self, name: str) -> GalleryImage:
        """One image; FileNotFoundError if there is none of that name."""
        path = self.folder / Path(name).name
        if path.name != name or name.startswith(".") or (image := self._read(path)) is None:
            raise FileNotFoundError(f"{name!r} is not among the images in {self.folder}")
        return image

    def add_style(self, image: ImageInput, name: str = "the style image") -> str:
        """Store a style image, so that images that refer to it can be generated again; returns its name, a hash."""
        return self._add_input(STYLES, read_image(image, name))

    def add_source(self, image: ImageInput, name: str = "the image") -> str:
        """Store the centre square of an image to change or enlarge, as `add_style` does; returns its name."""
        read = read_image(image, name)
        return self._add_input(SOURCES, square(read, min(read.size)))

    def style(self, name: str) -> Image.Image:
        """A style image, by the name that `add_style` returned."""
        return self._input(STYLES, name)

    def source(self, name: str) -> Image.Image:
        """An image to change or enlarge, by the name that `add_source` returned."""
        return self._input(SOURCES, name)

    def _add_input(self, folder: str, image: Image.Image) -> str:
        image.thumbnail((INPUT_SIDE, INPUT_SIDE))
        name = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        path = self.folder / folder / f"{name}.png"
        if not path.exists():
            with replacing(path) as beside:
                image.save(beside, "png")
        return name

    def _input(self, folder: str, name: str) -> Image.Image:
        if not re.fullmatch(r"[0-9a-f]{16}", name):
            raise ValueError(f"the name of an image in {folder} must be 16 hexadecimal digits, got {name!r}")
        return read_image(self.folder / folder / f"{name}.png")

    def _read(self, path: Path) -> GalleryImage | None:
        # None if ediffi did not make the file. It is read again when it changes.
        try:
            key = (path.name, path.stat().st_mtime_ns)
        except FileNotFoundError:  # removed a moment ago
            return None
        if key not in self._cache:
            try:
                settings = png.settings_of(path)
            except (ValueError, OSError, RecursionError):  # not an image, or one without settings
                settings = None
            self._cache[key] = GalleryImage(path.name, settings) if isinstance(settings, dict) else None
        return self._cache[key]


def _newest_first(path: Path) -> tuple[int, str]:
    try:
        return -path.stat().st_mtime_ns, path.name
    except FileNotFoundError:  # removed a moment ago
        return 0, path.name
