"""The low-resolution image of a super-resolution stage, as conditioning.

In training it is made from the clean image: averaged down, degraded at random (after Real-ESRGAN, as in eDiff-I), and
noised by a random `aug_level`. In sampling it is the previous stage's image, noised by the stage's own `aug_level`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur


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
        self, images: Float[Tensor, "b 3 H W"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]]:
        """The low-resolution images and their `aug_level`; random numbers from a CPU generator."""
        clean = F.avg_pool2d(images, self.scale)
        batch = len(clean)
        degraded = torch.rand(batch, generator=generator) < self.degrade_probability
        low_res = torch.where(degraded.to(clean.device).view(-1, 1, 1, 1), self._degrade(clean, generator), clean)
        aug_level = (self.max_aug_level * torch.rand(batch, generator=generator)).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        return augment(low_res, aug_level, noise), aug_level

    def _degrade(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        # Blur (one width for a batch) and add a smooth field of errors, like those of an earlier stage's images.
        blur, distortion = torch.rand(2, generator=generator).tolist()
        if self.max_blur > 0:
            clean = gaussian_blur(clean, kernel_size=[5, 5], sigma=[max(blur * self.max_blur, 1e-3)] * 2)
        coarse = torch.randn(*clean.shape[:2], *(max(1, s // 2) for s in clean.shape[-2:]), generator=generator)
        field = F.interpolate(coarse.to(clean.device), size=clean.shape[-2:], mode="bilinear")
        return clean + distortion * self.max_distortion * field
