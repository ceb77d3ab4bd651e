"""An image that looks the same is read the same, and so is a mask, in whatever form it comes."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ediffi.io.image_input import read_image, read_mask
from ediffi.io.images import BadImageError
from ediffi.pipeline.cascade import Cascade

SIDE = 48


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, RGB, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def shown() -> np.ndarray:
    """Few colours, a corner in the white of a transparent one, and no symmetry."""
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pixels[20:, :30], pixels[30:, 10:], pixels[:9, 25:40] = (255, 0, 0), (12, 34, 200), (0, 128, 0)
    return pixels


def hidden(value: int) -> Image.Image:
    """The image with alpha 0 where it is white, over another colour."""
    pixels = shown()
    clear = (pixels == 255).all(-1)
    pixels[clear] = value
    return Image.fromarray(np.dstack([pixels, np.where(clear, 0, 255).astype(np.uint8)]))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(shown()).transpose(Image.Transpose.ROTATE_90), "png", exif=exif)


def encodings() -> dict[str, object]:
    image = Image.fromarray(shown())
    return {
        "png": encoded(image),
        "a palette": encoded(image.quantize(8)),
        "opaque alpha": encoded(image.convert("RGBA")),
        "hidden black": encoded(hidden(0)),
        "hidden white": hidden(255),
        "webp": encoded(hidden(77), "webp", lossless=True, exact=True),
        "16 bits": png16(shown()),
        "turned by EXIF": turned(6),
        "tiff": encoded(image, "tiff", compression="tiff_deflate"),
        "CMYK": encoded(image.convert("CMYK"), "tiff"),
        "gif of two frames": encoded(image, "gif", save_all=True, append_images=[Image.new("RGB", image.size)]),
        "bytes": shown(),
        "floats": shown().astype(np.float32) / 255,
        "16-bit array": shown().astype(np.uint16) * 257,
        "tensor": torch.from_numpy(shown()).movedim(-1, 0),
        "batch of one": torch.from_numpy(shown()).movedim(-1, 0)[None] / 255,
        "half precision": (torch.from_numpy(shown()).movedim(-1, 0) / 255).bfloat16(),
    }


def test_what_looks_the_same_is_the_same(tmp_path: Path) -> None:
    for name, value in encodings().items():
        found = read_image(value)
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found), shown()), name
    (tmp_path / "a.png").write_bytes(encodings()["png"])
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(read_image(path)), shown())


def test_the_encodings_of_an_image_have_one_embedding(model_folder: Path) -> None:
    encoder = Cascade.from_pretrained(model_folder).image_encoders["clip_image"]
    first = None
    for name, value in encodings().items():
        pixels = torch.from_numpy(np.array(read_image(value))).movedim(-1, 0)[None] / 127.5 - 1
        tokens = encoder(pixels).tokens
        first = tokens if first is None else first
        assert torch.equal(tokens, first), name


def test_gray_images_of_any_depth() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    forms = [
        Image.fromarray(gray),
        Image.fromarray(gray).convert("LA"),
        encoded(deep),
        encoded(Image.fromarray(gray.astype(np.int32) * 257), "tiff"),
        encoded(Image.fromarray(gray.astype(np.float32)), "tiff"),
        encoded(Image.fromarray(gray.astype(np.float32) / 255), "tiff"),
        gray[..., None],
        gray / 255,
        torch.from_numpy(gray)[None],
    ]
    for k, form in enumerate(forms):
        assert np.array_equal(np.asarray(read_image(form))[..., 0], gray), k
    assert np.asarray(read_image(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]


def test_the_background_is_what_is_asked_for() -> None:
    assert read_image(hidden(9), background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([[0.5, np.nan]]), "it has values from nan to nan; of float64, they must be from 0 to 1"),
        (np.full((2, 2), np.inf, np.float32), "values from inf to inf"),
        (np.full((2, 2, 3), 255.0), "values from 255 to 255; of float64, they must be from 0 to 1"),
        (torch.full((3, 2, 2), -0.5), r"from -0.5 to -0.5; .*of an image in \[-1, 1\], give \(x \+ 1\) / 2"),
        (np.full((2, 2), 256), "values from 256 to 256; of int64, they must be from 0 to 255"),
        (np.zeros((2, 2, 5)), r"shape \[2, 2, 5\]; arrays are \[h, w\] or \[h, w, c\]"),
        (torch.zeros(2, 3, 4, 4), r"shape \[2, 3, 4, 4\]"),
        (np.zeros((0, 2)), r"shape \[0, 2\]"),
        (np.array([["a"]]), "it has the type <U1"),
        (np.zeros((9000, 9000), bool), "it is 9000x9000; at most 64 million"),
        (Image.fromarray(np.array([[2.0, 300.0]], np.float32)), "it has values from 2 to 300"),
        (Image.fromarray(np.array([[-1, 70000]], np.int32)), "it has values from -1 to 70000; .* 0 to 65535"),
        (b"text", "it is not an image"),
    ],
)
def test_what_is_no_image_is_told(value: object, message: str) -> None:
    for read in (read_image, read_mask):
        with pytest.raises(BadImageError, match=message):
            read(value, "it")


def test_an_animation_says_which_frame_is_used(caplog: pytest.LogCaptureFixture) -> None:
    frames = encoded(Image.new("L", (4, 4)), "gif", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    for form in (frames, Image.open(io.BytesIO(frames))):
        read_image(form, "wave.gif")
        assert caplog.messages == ["wave.gif is animated: its first frame is used"]
        caplog.clear()


# Masks


def strokes() -> np.ndarray:
    """Soft white strokes, in bytes."""
    levels = np.zeros((32, 32), np.uint8)
    levels[4:20, 6:9], levels[10, :], levels[25, 25] = 255, 128, 17
    return levels


def masks() -> dict[str, tuple[object, np.ndarray]]:
    """Forms of a mask, and what they say."""
    soft, hard = strokes() / np.float32(255), (strokes() == 255).astype(np.float32)
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[..., :3], clear[..., 3] = 255, strokes()
    labels = hard.astype(np.uint8)
    return {
        "gray": (Image.fromarray(strokes()), soft),
        "RGB": (encoded(Image.fromarray(strokes()).convert("RGB")), soft),
        "white strokes on transparency": (encoded(Image.fromarray(clear)), soft),
        "gray and alpha": (
            encoded(Image.merge("LA", [Image.new("L", (32, 32), 255), Image.fromarray(strokes())])),
            soft,
        ),
        "16 bits": (encoded(Image.fromarray(strokes().astype(np.uint16) * 257)), soft),
        "floats": (strokes() / 255, soft),
        "a tensor": (torch.from_numpy(soft)[None], soft),
        "one bit": (encoded(Image.fromarray(hard.astype(bool))), hard),
        "labels of a file": (encoded(Image.fromarray(labels)), hard),
        "labels of 16 bits": (encoded(Image.fromarray(labels.astype(np.uint16))), hard),
        "labels of integers": (labels.astype(np.int64), hard),
        "booleans": (hard.astype(bool), hard),
        "bytes of an array": (strokes(), soft),
    }


def test_masks_in_any_form() -> None:
    for name, (form, wanted) in masks().items():
        found = read_mask(form)
        assert (found.dtype, tuple(found.shape)) == (torch.float32, (32, 32)), name
        assert np.abs(found.numpy() - wanted).max() < 1e-6, name


@given(st.integers(0, 255))
def test_a_mask_keeps_how_soft_it_is(level: int) -> None:
    levels = np.full((3, 3), level, np.uint8)
    levels[0, 0] = 255
    for form in (levels, Image.fromarray(levels), encoded(Image.fromarray(levels))):
        assert float(read_mask(form)[1, 1]) == np.float32(level) / np.float32(255)


def test_a_mask_that_is_none_is_told() -> None:
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    for form, message in (
        (labels, "its largest value is 3, white is 255; of a mask of labels, give one label as white"),
        (Image.fromarray(labels.astype(np.uint16)), "its largest value is 3, white is 65535"),
        (red, "has colours, such as #ff0000; a mask is white inside"),
    ):
        with pytest.raises(BadImageError, match=message):
            read_mask(form)
    assert not read_mask(np.zeros((2, 2), np.uint8)).any(), "an empty mask is for the caller to refuse"
