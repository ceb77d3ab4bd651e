"""The low-resolution images that training makes."""

import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from ediffi.diffusion.low_res import LowResolution
from ediffi.registry.random import Philox, rand

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
RANDOMNESS = Philox(4, range(2))


def made(max_blur: float) -> torch.Tensor:
    low_res = LowResolution(4, max_aug_level=0.0, degrade_probability=1.0, max_blur=max_blur, max_distortion=0.0)
    images, aug_level = low_res(IMAGES, RANDOMNESS)
    assert not aug_level.any()
    return images


def test_without_blur_images_are_averaged_only() -> None:
    torch.testing.assert_close(made(0.0), F.avg_pool2d(IMAGES, 4))


def test_each_image_is_blurred_by_its_own_share_of_the_largest_width() -> None:
    widths = (0.8 * rand((2, 4), RANDOMNESS)[:, 1]).tolist()
    assert abs(widths[0] - widths[1]) > 0.1
    small = F.avg_pool2d(IMAGES, 4)
    blurred = [gaussian_blur(image, [5, 5], [width] * 2) for image, width in zip(small, widths, strict=True)]
    torch.testing.assert_close(made(0.8), torch.stack(blurred))


def test_a_batch_is_its_images_one_by_one() -> None:
    """Degraded, distorted and noised: bit for bit."""
    low_res = LowResolution(4)
    together, levels = low_res(IMAGES.repeat(4, 1, 1, 1), Philox(0, range(8)))
    for k in range(8):
        alone, level = low_res(IMAGES[k % 2 : k % 2 + 1], Philox(0, [k]))
        assert torch.equal(together[k : k + 1], alone)
        assert torch.equal(levels[k : k + 1], level)


def test_the_errors_are_of_the_drawn_strength_and_smooth() -> None:
    low_res = LowResolution(2, max_aug_level=0.0, degrade_probability=1.0, max_blur=0.0, max_distortion=0.3)
    errors, _ = low_res(torch.zeros(64, 3, 64, 64), Philox(0, range(64)))
    strength = 0.3 * rand((64, 4), Philox(0, range(64)))[:, 2]
    # Between four normal numbers, weighted 9, 3, 3 and 1 of 16: a standard deviation of 5/8.
    torch.testing.assert_close(errors[..., 1:-1, 1:-1].flatten(1).std(1), 0.625 * strength, rtol=0.1, atol=0)
    steps = (errors[..., 1:] - errors[..., :-1]).flatten(1).std(1)
    assert (steps < errors.flatten(1).std(1)).all()
