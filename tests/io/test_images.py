"""Image files that are refused, in a sentence, and what is unusual about others."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi.io import png
from ediffi.io.images import (
    MAX_PIXELS,
    WHITE,
    BadImageError,
    color,
    is_transparent,
    oddity,
    open_image,
    rgb,
    square,
    square_to_tensor,
    to_images,
)


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    """The content of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("decode", [True, False])
def test_files_that_are_no_image(tmp_path: Path, decode: bool) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image https:/+example\.com/a\.png; it is an address: download it"):
        open_image(Path("https://example.com/a.png"))
    with pytest.raises(FileNotFoundError, match=r"no image .*a\.png"):
        open_image(tmp_path / "a.png", decode=decode)
    for content, message in ((b"", "is empty"), (b"a text", "is not an image")):
        with pytest.raises(BadImageError, match=f"my file {message}"):
            open_image(content, "my file", decode=decode)


def test_a_truncated_image_is_refused_once_it_is_decoded() -> None:
    half = encoded(Image.effect_noise((64, 64), 50))[:1000]
    assert open_image(half, decode=False).size == (64, 64)
    with pytest.raises(BadImageError, match="broken image"):
        open_image(half)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    side = 8000
    assert side * side == MAX_PIXELS
    assert open_image(encoded(Image.new("1", (side, side))), decode=False).size == (side, side)
    with pytest.raises(BadImageError, match=r"8001x8000; at most 64 million pixels"):
        open_image(encoded(Image.new("1", (side + 1, side))), decode=False)


def test_exif_turns_an_image_only_where_it_should() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (30, 20)), "jpeg", exif=exif)
    assert (open_image(data).size, open_image(data, exif=True).size) == ((30, 20), (20, 30))


def test_what_is_unusual_about_an_image() -> None:
    clear = Image.new("RGBA", (4, 4), (1, 2, 3, 200))
    frames = encoded(Image.new("L", (4, 4)), "gif", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    images = {
        None: [Image.new(mode, (4, 4)) for mode in ("RGB", "L", "1", "P")]
        + [Image.new("RGBA", (4, 4), (1, 2, 3, 255))],
        "transparent": [clear, clear.convert("LA")],
        "16-bit or float": [Image.new("I;16", (4, 4)), Image.new("F", (4, 4))],
        "CMYK": [Image.new("CMYK", (4, 4))],
    }
    for reason, group in images.items():
        assert [oddity(image) for image in group] == [reason] * len(group)
    assert oddity(open_image(frames)) == "animated"


def test_sixteen_bits_lose_their_low_byte() -> None:
    values = Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16))
    assert np.array(rgb(values))[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("mode", "colors"),
    [("RGBA", [(9, 9, 9, 0), (0, 100, 200, 255), (0, 100, 200, 51)]), ("LA", [(9, 0), (100, 255), (100, 51)])],
)
def test_a_transparent_image_is_laid_on_the_background(mode: str, colors: list[tuple[int, ...]]) -> None:
    """alpha·color + (1 - alpha)·background, computed here again; what is hidden under alpha 0 changes nothing."""
    image, background = Image.new(mode, (3, 1)), (200, 0, 50)
    for x, one in enumerate(colors):
        image.putpixel((x, 0), one)
    for stored in (image, open_image(encoded(image)), open_image(encoded(image, "webp", lossless=True, exact=True))):
        assert is_transparent(stored)
        for x, one in enumerate(colors):
            color, alpha = np.resize(np.array(one[:-1], float), 3), one[-1] / 255
            wanted = alpha * color + (1 - alpha) * np.array(background)
            assert np.abs(np.array(rgb(stored, background))[0, x] - wanted).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16"])
def test_a_color_that_a_png_names_as_transparent(mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), 255 if mode in {"1", "L"} else 7 if mode == "P" else 1 if mode == "I;16" else (1, 2, 3))
    found = open_image(encoded(image, transparency=(0, 0, 0) if mode == "RGB" else 0))
    assert is_transparent(found)
    assert np.array(rgb(found, (1, 20, 30)))[0, 0].tolist() == [1, 20, 30]
    assert np.array(rgb(found, (1, 20, 30)))[0, 1].tolist() == np.array(rgb(image))[0, 1].tolist()


def test_an_alpha_channel_alone_does_not_make_an_image_transparent() -> None:
    image = Image.effect_noise((8, 8), 90).convert("RGBA")
    assert not is_transparent(image)
    assert np.array_equal(np.array(rgb(image, (0, 0, 0))), np.array(image.convert("RGB")))


def test_colors() -> None:
    assert (color("white"), color("#ff8800")) == (WHITE, (255, 136, 0))
    for name in ("whit", "#ff880080", ""):
        with pytest.raises(ValueError, match=rf"'{name}' is no colour"):
            color(name)


def test_the_centre_square() -> None:
    stripes = Image.fromarray(np.repeat(np.arange(10, dtype=np.uint8)[None, :, None], 4, 0).repeat(3, 2))
    assert np.array(square(stripes, 4))[0, :, 0].tolist() == [3, 4, 5, 6]
    assert square(stripes.resize((1000, 401)), 16).size == (16, 16)
    assert torch.equal(square_to_tensor(stripes, 4)[0, 0], torch.tensor([3.0, 4, 5, 6]) / 127.5 - 1)


def test_tensors_become_the_nearest_image_and_values_outside_are_clipped() -> None:
    tensor = torch.tensor([-2.0, -1.0, 0.003, 1.0, 2.0]).expand(1, 3, 1, 5)
    assert np.array(to_images(tensor)[0])[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_settings_travel_with_an_image(tmp_path: Path) -> None:
    image, settings = Image.new("RGB", (2, 2)), {"prompt": "größer", "steps": [1, 2]}
    png.save(image, tmp_path / "a.png", settings)
    assert png.settings_of(tmp_path / "a.png") == settings
    image.save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="holds no settings"):
        png.settings_of(tmp_path / "b.png")


def test_outputs_are_numbered_and_checked(tmp_path: Path) -> None:
    assert png.numbered(tmp_path / "a.png", 1) == [tmp_path / "a.png"]
    assert png.numbered(tmp_path / "a.PNG", 2) == [tmp_path / "a-0.PNG", tmp_path / "a-1.PNG"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b.png").mkdir()
    for output, count, error, message in (
        ("a.png", 0, ValueError, "from 1 to 100000, got 0"),
        ("a.jpg", 1, ValueError, r"end in \.png, got .*a\.jpg"),
        ("b.png", 2, IsADirectoryError, "is a folder"),
        ("none/a.png", 1, FileNotFoundError, "does not exist: .*none"),
    ):
        with pytest.raises(error, match=message):
            png.numbered(tmp_path / output, count)
