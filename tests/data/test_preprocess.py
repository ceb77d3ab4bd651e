"""Crops for the last stage are those of the whole picture, and a function of seed and position."""

import numpy as np
import pytest
import torch
from PIL import Image

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
