"""Sampling that starts from an image: image-to-image, and inpainting."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.io.image_input import ImageInput, read_image, read_mask
from ediffi.io.numbers import check_number
from ediffi.registry.types import Conditioning, Denoiser, at_level


@dataclass(frozen=True, init=False)
class Edit:
    """An image to start from, in all stages of the cascade.

    Args:
        image: a path, a Pillow image, an array or a tensor, see `ediffi.io.image_input`; square; laid on white where it
            is transparent; each stage resizes it to its own resolution.
        strength: share of the steps that run: 0 returns the image, 1 starts from noise alone; above 0, each stage runs
            at least one step.
        mask: of the same size, in the same forms: white where the image is repainted, black where it is kept exactly,
            gray for a mixture; None repaints all of it. Transparent pixels are black.

    Raises:
        ValueError: a number is out of range, or image and mask do not fit; as `read_image` and `read_mask`.
    """

    image: Image.Image
    strength: float
    mask: Float[Tensor, "h w"] | None

    def __init__(self, image: ImageInput, strength: float = 0.8, mask: ImageInput | None = None) -> None:
        check_number("strength", strength, lambda share: 0 <= share <= 1, "in [0, 1]")
        read = read_image(image)
        if read.width != read.height:
            raise ValueError(f"the image is {read.width}x{read.height}; it must be square: crop it first")
        levels = None if mask is None else read_mask(mask)
        if levels is not None and levels.shape != (read.height, read.width):
            found = f"the mask is {levels.shape[1]}x{levels.shape[0]}, the image {read.width}x{read.height}"
            raise ValueError(f"{found}; they must be of one size")
        if levels is not None and not levels.any():
            raise ValueError("the mask is all black, so nothing is repainted; white marks what is")
        for name, value in (("image", read), ("strength", float(strength)), ("mask", levels)):
            object.__setattr__(self, name, value)

    def at(self, resolution: int, batch: int, device: torch.device) -> "EditSource":
        """The image and the mask at the resolution of a stage, for a batch."""
        pixels = torch.from_numpy(np.array(self.image)).movedim(-1, 0)[None].float() / 255
        images = (_resized(pixels, resolution) * 2 - 1).expand(batch, -1, -1, -1).to(device)
        if self.mask is None:
            return EditSource(images, self.strength)
        mask = _resized(self.mask[None, None], resolution)
        return EditSource(images, self.strength, mask.expand(batch, -1, -1, -1).to(device))


def steps_left(steps: int, strength: float) -> int:
    """How many of the steps of a stage run, of an edit of this strength.

    Above 0 it is at least one: a stage without a step would throw away what the stage before it made.
    """
    return max(round(strength * steps), int(strength > 0))


@dataclass(frozen=True)
class EditSource:
    """What a stage starts from: an `Edit` at its resolution."""

    images: Float[Tensor, "b 3 h w"]  # in [-1, 1]
    strength: float
    mask: Float[Tensor, "b 1 h w"] | None = None  # 1 where the images are repainted

    def remaining(self, sigmas: Float[Tensor, " s"]) -> Float[Tensor, " r"]:
        """The last steps of a grid, as many as `strength` says; `[0]` for none (SDEdit, arXiv 2108.01073)."""
        steps = len(sigmas) - 1
        return sigmas[steps - steps_left(steps, self.strength) :]


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


def _resized(pixels: Float[Tensor, "b c h w"], resolution: int) -> Float[Tensor, "b c s s"]:
    """A square image in [0, 1], averaged down or enlarged bicubically."""
    size = (resolution, resolution)
    if pixels.shape[-1] >= resolution:
        return F.interpolate(pixels, size, mode="area")
    return F.interpolate(pixels, size, mode="bicubic").clamp(0, 1)
