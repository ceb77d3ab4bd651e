"""The gallery stores images with their settings, also over a restart, and gives out no other file."""

import os
from pathlib import Path

import pytest
from PIL import Image

from ediffi.io import png
from ediffi.studio.gallery import STYLES, Gallery

SETTINGS = {"model": "toybox", "prompt": "a red circle", "seed": 3}


def image(side: int = 8, colour: str = "red") -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def test_the_newest_call_comes_first_and_its_images_in_order(gallery: Gallery) -> None:
    first = gallery.add([image(), image()], SETTINGS)
    second = gallery.add([image()], {**SETTINGS, "seed": 4})
    assert len({*first, *second}) == 3
    assert [one.name for one in gallery.images()] == [*second, *first]
    assert [one.settings["index"] for one in gallery.images()] == [0, 0, 1]
    assert [one.name for one in gallery.images(1)] == second


def test_the_images_are_there_after_a_restart(gallery: Gallery) -> None:
    (name,) = gallery.add([image()], SETTINGS)
    again = Gallery(gallery.folder)
    assert again.image(name).settings == {**SETTINGS, "index": 0}
    assert png.settings_of(again.folder / name) == again.image(name).settings


def test_other_files_are_skipped(gallery: Gallery) -> None:
    (name,) = gallery.add([image()], SETTINGS)
    image().save(gallery.folder / "mine.png")
    (gallery.folder / "broken.png").write_bytes(b"not an image")
    (gallery.folder / "folder.png").mkdir()
    assert [one.name for one in gallery.images()] == [name]
    for other in ("mine.png", "broken.png", "gone.png", "", "../images/" + name, "/etc/passwd"):
        with pytest.raises(FileNotFoundError, match="not among the images"):
            gallery.image(other)


def test_an_image_that_changes_is_read_again(gallery: Gallery) -> None:
    (name,) = gallery.add([image()], SETTINGS)
    assert gallery.image(name).settings["seed"] == 3
    png.save(image(), gallery.folder / name, {**SETTINGS, "seed": 9})
    os.utime(gallery.folder / name, ns=(1, 1))
    assert gallery.image(name).settings["seed"] == 9
    (gallery.folder / name).unlink()
    assert gallery.images() == []


def test_style_images_are_named_by_their_pixels(gallery: Gallery) -> None:
    name = gallery.add_style(image(1100, "blue"))
    assert gallery.add_style(image(1100, "blue")) == name != gallery.add_style(image(8, "red"))
    assert gallery.style(name).size == (1024, 1024)
    assert not list((gallery.folder / STYLES).glob("*.tmp"))
    for wrong in ("", "../../etc/passwd", name + "0", name.upper() + "x"):
        with pytest.raises(ValueError, match="16 hexadecimal digits"):
            gallery.style(wrong)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Gallery(tmp_path / "file" / "images")
