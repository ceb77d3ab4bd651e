"""The low-resolution image of a super-resolution stage, as conditioning.

In training it is made from the clean image: averaged down, degraded at random (after Real-ESRGAN, as in eDiff-I), and
noised by a random `aug_level`. In sampling it is the previous stage's image, noised by the stage's own `aug_level`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ediffi.registry.random import Generators, rand, randn


def augment(
    low_res: Float[Tensor, "b 3 h w"], aug_level: Float[Tensor, " b"], noise: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """`low_res + aug_level·noise`: noise conditioning augmentation (Ho et al. 2021, arXiv 2106.15282)."""
    return low_res + aug_level.view(-1, 1, 1, 1) * noise


@dataclass(frozen=True)
class LowResolution:
    """Makes the low-resolution images of a training batch.

    Args:
        scale: how many times smaller than the image it is.
        max_aug_level: `aug_level` is uniform in [0, max_aug_level], for images in [-1, 1].
        degrade_probability: share of the images that are degraded before the noise.
        max_blur: standard deviation of the blur is uniform in (0, max_blur], in low-resolution pixels.
        max_distortion: standard deviation of a smooth error field is uniform in [0, max_distortion].
    """

    scale: int = 4
    max_aug_level: float = 0.2
    degrade_probability: float = 0.5
    max_blur: float = 0.8
    max_distortion: float = 0.1

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise ValueError(f"scale must be at least 2, got {self.scale}")
        if not 0 <= self.degrade_probability <= 1:
            raise ValueError(f"degrade_probability must be in [0, 1], got {self.degrade_probability}")
        for name in ("max_aug_level", "max_blur", "max_distortion"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def __call__(
        self, images: Float[Tensor, "b 3 H W"], generator: Generators
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]]:
        """The low-resolution images and their `aug_level`."""
        clean = F.avg_pool2d(images, self.scale)
        choices = rand((len(clean), 4), generator).to(clean.device, non_blocking=True)
        degraded, blur, distortion, level = choices.view(-1, 4, 1, 1, 1).unbind(1)
        low_res, coarse = clean, [max(1, side // 2) for side in clean.shape[2:]]
        if self.max_blur > 0:
            low_res = _blur(low_res, (blur * self.max_blur).clamp(min=1e-3))
        # A smooth field of errors, like those of an earlier stage's images.
        errors = randn((*clean.shape[:2], *coarse), generator, clean.device, call=1)
        field = F.interpolate(errors, size=clean.shape[2:], mode="bilinear")
        low_res = low_res + distortion * self.max_distortion * field
        low_res = torch.where(degraded < self.degrade_probability, low_res, clean)
        aug_level = self.max_aug_level * level.flatten()
        return augment(low_res, aug_level, randn(clean.shape, generator, clean.device, call=2)), aug_level


def _blur(images: Float[Tensor, "b 3 h w"], width: Float[Tensor, "b 1 1 1"]) -> Float[Tensor, "b 3 h w"]:
    """Gaussian blur over 5x5 pixels, each image with its own standard deviation; edges are reflected."""
    kernel = [torch.exp(-0.5 * (offset / width) ** 2) for offset in range(-2, 3)]
    total = torch.stack(kernel).sum(0)
    for dim in (2, 3):
        side = images.shape[dim]
        padded = F.pad(images, (2, 2, 0, 0) if dim == 3 else (0, 0, 2, 2), mode="reflect")
        shifted = [weight / total * padded.narrow(dim, start, side) for start, weight in enumerate(kernel)]
        images = torch.stack(shifted).sum(0)
    return images
