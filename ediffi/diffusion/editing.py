"""Sampling that starts from an image: image-to-image, and inpainting."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.io.images import rgb
from ediffi.registry.types import Conditioning, Denoiser, at_level


@dataclass(frozen=True)
class Edit:
    """An image to start from, in all stages of the cascade.

    Args:
        image: square; laid on white where it is transparent; each stage resizes it to its own resolution.
        strength: share of the steps that run: 0 returns the image, 1 starts from noise alone.
        mask: L, white where the image is repainted, black where it is kept exactly; None repaints all of it.
    """

    image: Image.Image
    strength: float = 0.8
    mask: Image.Image | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be in [0, 1], got {self.strength}")
        if self.image.width != self.image.height:
            raise ValueError(f"the image is {_size(self.image)}; it must be square: crop it first")
        if self.mask is not None and self.mask.size != self.image.size:
            raise ValueError(f"the mask is {_size(self.mask)}, the image {_size(self.image)}; they must be of one size")
        if self.mask is not None and self.mask.convert("L").getextrema()[1] == 0:
            raise ValueError("the mask is all black, so nothing is repainted; white marks what is")

    def at(self, resolution: int, batch: int, device: torch.device) -> "EditSource":
        """The image and the mask at the resolution of a stage, for a batch."""
        images = (_resized(rgb(self.image), resolution) * 2 - 1).expand(batch, -1, -1, -1).to(device)
        if self.mask is None:
            return EditSource(images, self.strength)
        mask = _resized(self.mask.convert("L"), resolution)
        return EditSource(images, self.strength, mask.expand(batch, -1, -1, -1).to(device))


@dataclass(frozen=True)
class EditSource:
    """What a stage starts from: an `Edit` at its resolution."""

    images: Float[Tensor, "b 3 h w"]  # in [-1, 1]
    strength: float
    mask: Float[Tensor, "b 1 h w"] | None = None  # 1 where the images are repainted

    def remaining(self, sigmas: Float[Tensor, " s"]) -> Float[Tensor, " r"]:
        """The last steps of a grid, as many as `strength` says; `[0]` for none (SDEdit, arXiv 2108.01073)."""
        steps = len(sigmas) - 1
        return sigmas[steps - round(self.strength * steps) :]


@dataclass(frozen=True)
class InpaintingDenoiser:
    """`mask·D(x) + (1 - mask)·image`: the estimate is the image itself where the mask is 0.

    On the ODE `dx/dsigma = (x - D)/sigma` those pixels are then always the image plus noise of level sigma, as in
    training, and end as the image. Our choice instead of replacing pixels of `x` after each step (RePaint, arXiv
    2201.09865), since it works with every solver.
    """

    denoiser: Denoiser
    source: EditSource

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Estimate of the clean images."""
        denoised = self.denoiser(x, sigma, cond)
        if self.source.mask is None:
            return denoised
        return torch.lerp(self.source.images.to(denoised), denoised, self.source.mask.to(denoised))

    def at(self, sigma: float) -> "InpaintingDenoiser":
        """The same, of the denoiser at one noise level."""
        return replace(self, denoiser=at_level(self.denoiser, sigma))


def _resized(image: Image.Image, resolution: int) -> Float[Tensor, "1 c h w"]:
    """An image in [0, 1], averaged down or enlarged bicubically."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    pixels = pil_to_tensor(image)[None].float() / 255
    size = (resolution, resolution)
    if image.width >= resolution:
        return F.interpolate(pixels, size, mode="area")
    return F.interpolate(pixels, size, mode="bicubic").clamp(0, 1)


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
