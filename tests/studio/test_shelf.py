"""The shelf keeps pictures with their settings, over a restart, and gives out nothing else."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from ediffi.io import png
from ediffi.studio.catalogue import catalogue, label
from ediffi.studio.sheet import data_url, file_url, sheet
from ediffi.studio.shelf import STYLES, Shelf

SETTINGS = {
    "model": "toybox",
    "prompt": 'a "red" <circle>',
    "seed": 3,
    "stages": {"base": {"sampler": "euler", "num_inference_steps": 4, "guidance_scale": 3.0}},
}


def picture(side: int = 8, colour: str = "red") -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def test_the_newest_call_comes_first_and_its_pictures_in_order(shelf: Shelf) -> None:
    first = shelf.add([picture(), picture()], SETTINGS)
    second = shelf.add([picture()], {**SETTINGS, "seed": 4})
    assert len({*first, *second}) == 3
    entries = shelf.entries()
    assert [entry.name for entry in entries] == [*second, *first]
    assert [entry.settings["index"] for entry in entries] == [0, 0, 1]
    assert [entry.name for entry in shelf.entries(1)] == second


def test_it_is_all_there_after_a_restart(shelf: Shelf) -> None:
    (name,) = shelf.add([picture()], SETTINGS)
    again = Shelf(shelf.folder)
    assert again.entry(name).settings == {**SETTINGS, "index": 0}
    assert png.settings_of(again.path(name)) == again.entry(name).settings


def test_other_files_are_passed_over(shelf: Shelf) -> None:
    (name,) = shelf.add([picture()], SETTINGS)
    picture().save(shelf.folder / "mine.png")
    (shelf.folder / "broken.png").write_bytes(b"not a picture")
    (shelf.folder / "folder.png").mkdir()
    assert [entry.name for entry in shelf.entries()] == [name]
    for other in ("mine.png", "broken.png", "gone.png", "", "../pictures/" + name, "/etc/passwd"):
        with pytest.raises(FileNotFoundError, match="is not among the pictures in "):
            shelf.entry(other)


def test_a_picture_that_changes_is_read_again(shelf: Shelf) -> None:
    (name,) = shelf.add([picture()], SETTINGS)
    assert shelf.entry(name).settings["seed"] == 3
    png.save(picture(), shelf.folder / name, {**SETTINGS, "seed": 9})
    os.utime(shelf.folder / name, ns=(1, 1))
    assert shelf.entry(name).settings["seed"] == 9
    (shelf.folder / name).unlink()
    assert shelf.entries() == []


def test_style_pictures_are_kept_by_what_they_show(shelf: Shelf) -> None:
    name = shelf.keep_style(picture(3000, "blue"))
    assert shelf.keep_style(picture(3000, "blue")) == name != shelf.keep_style(picture(8, "red"))
    with Image.open(shelf.style(name)) as kept:
        assert kept.size == (1024, 1024)
    assert not list((shelf.folder / STYLES).glob("*.tmp"))
    for wrong in ("", "../../etc/passwd", name + "0", name.upper() + "x"):
        with pytest.raises(ValueError, match="16 hexadecimal digits"):
            shelf.style(wrong)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Shelf(tmp_path / "file" / "pictures")


# What a visitor sees of it


def test_the_catalogue_lists_and_escapes(shelf: Shelf) -> None:
    assert "are kept here" in catalogue(shelf, [], "")
    names = shelf.add([picture(), picture()], SETTINGS)
    page = catalogue(shelf, shelf.entries(), names[1])
    assert page.count("data-name=") == 2
    assert f'data-name="{names[1]}" class="card chosen"' in page
    assert "<circle>" not in page
    assert "&lt;circle&gt;" in page


def test_the_label_says_how_it_was_made(shelf: Shelf) -> None:
    assert label(shelf, None) == '<div class="label"></div>'
    brushes = [{"phrase": "red", "colour": "#e5484d"}]
    order = {"layout": {"brushes": brushes}, "paint_weight": 2.0}
    extra = {"negative_prompt": "blue", "order": order, "style": {"scale": 0.5}, "first_index": 2}
    (name,) = shelf.add([picture()], {**SETTINGS, **extra})
    page = label(shelf, shelf.entry(name), ["ignored: <b>"])
    for text in (
        "3, picture 3",
        "base 4, by euler",
        "red (weight 2)",
        "scale 0.5",
        "<dd>blue</dd>",
        "ignored: &lt;b&gt;",
    ):
        assert text in page
    assert f'href="{file_url(shelf, name)}" download="{name}"' in page


@pytest.mark.parametrize("wrong", [{"stages": 3}, {"stages": {"base": {}}}, {"order": {"layout": []}}, {"seed": None}])
def test_settings_of_another_version_do_not_break_the_page(shelf: Shelf, wrong: dict[str, object]) -> None:
    (name,) = shelf.add([picture()], {**SETTINGS, **wrong})
    assert "Download PNG" in label(shelf, shelf.entry(name))
    assert name in catalogue(shelf, shelf.entries(), name)


def test_the_address_of_a_file_is_quoted(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "a folder #1")
    assert file_url(shelf, "x.png").endswith("/a%20folder%20%231/x.png")


def test_small_pictures_are_sent_exactly_and_large_ones_small() -> None:
    assert data_url(picture(16)).startswith("data:image/png;base64,")
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    assert data_url(noise).startswith("data:image/jpeg;base64,")
    assert len(data_url(noise)) < 100_000


def test_the_sheet_says_what_happens() -> None:
    assert "appears here" in sheet([], "")
    page = sheet(
        ["a.png", "b.png"], "base: step 1", detail="2 s left", share=0.25, error="<no>", notices=["ignored: x"]
    )
    assert page.count("<img") == 2
    assert 'class="sheet n2"' in page
    assert "width:25.0%" in page
    assert '<div class="alert" role="alert">&lt;no&gt;</div>' in page
    assert json.dumps("ignored: x").strip('"') in page
