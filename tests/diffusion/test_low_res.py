"""The low-resolution images that training makes."""

import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from ediffi.diffusion.low_res import LowResolution

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def made(max_blur: float) -> torch.Tensor:
    low_res = LowResolution(4, max_aug_level=0.0, degrade_probability=1.0, max_blur=max_blur, max_distortion=0.0)
    images, aug_level = low_res(IMAGES, torch.Generator().manual_seed(2))
    assert not aug_level.any()
    return images


def test_without_blur_images_are_averaged_only() -> None:
    torch.testing.assert_close(made(0.0), F.avg_pool2d(IMAGES, 4))


def test_the_width_of_the_blur_is_a_share_of_the_largest() -> None:
    generator = torch.Generator().manual_seed(2)
    torch.rand(2, generator=generator)  # which images are degraded
    width = float(torch.rand(2, generator=generator)[0]) * 0.8
    torch.testing.assert_close(made(0.8), gaussian_blur(F.avg_pool2d(IMAGES, 4), [5, 5], [width, width]))
