"""Crops for the last stage are those of the whole picture, and a function of seed and position."""

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi.data.shards import Sample
from ediffi.data.stream import ImageTransform
from ediffi.io.images import crop_to_tensor, to_tensor


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (90, 64), (128, 200), (192, 192), (64, 300)])
def test_a_crop_of_whole_pixels_is_that_of_the_whole_picture(width: int, height: int) -> None:
    image, whole = picture(width, height), to_tensor(picture(width, height), 64)
    for top, left in ((0, 0), (48, 48), (7, 30)):
        assert torch.equal(crop_to_tensor(image, 64, top, left, 16), whole[:, top : top + 16, left : left + 16])


@pytest.mark.parametrize(("width", "height"), [(91, 77), (65, 130), (333, 251), (100, 500)])
def test_any_crop_is_that_of_the_whole_picture_to_rounding(width: int, height: int) -> None:
    image, whole = picture(width, height), to_tensor(picture(width, height), 64)
    rng = np.random.default_rng(0)
    for _ in range(20):
        top, left = (int(place) for place in rng.integers(0, 49, 2))
        error = (crop_to_tensor(image, 64, top, left, 16) - whole[:, top : top + 16, left : left + 16]).abs() * 127.5
        assert float(error.mean()) < 0.5  # a shift by one pixel makes 10
        assert float(error.max()) < 12


def test_crops_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match="60x90 is smaller than image_size, 64"):
        crop_to_tensor(picture(60, 90), 64, 0, 0, 16)
    for top, left, crop in ((50, 0, 16), (0, -1, 16), (0, 0, 65), (0, 0, 0)):
        with pytest.raises(ValueError, match="does not lie in 64x64"):
            crop_to_tensor(picture(64, 64), 64, top, left, crop)


def test_a_random_crop_may_lie_anywhere_in_the_square() -> None:
    """Red and green of a pixel are its row and column, so that a crop shows where it was cut."""
    places = np.stack([*np.mgrid[:12, :12], np.zeros((12, 12))], axis=-1).astype(np.uint8)
    sample = Sample("a", Image.fromarray(places), "", {}, {})
    transform, seen = ImageTransform(12, 4), []
    for position in range(300):
        crop = ((transform(sample, np.random.default_rng([3, position])) + 1) * 127.5).round().int()
        assert crop.shape == (3, 4, 4)
        top, left = np.random.default_rng([3, position]).integers(0, 9, size=2)
        assert crop[0, :, 0].tolist() == list(range(top, top + 4))
        assert crop[1, 0].tolist() == list(range(left, left + 4))
        seen.append((int(top), int(left)))
    assert {top for top, _ in seen} == {left for _, left in seen} == set(range(9))
    assert torch.equal(ImageTransform(12)(sample, np.random.default_rng(0)), to_tensor(sample.image, 12))
