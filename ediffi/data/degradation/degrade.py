"""A clean image becomes the low-resolution input of super-resolution, degraded as real images are.

After Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3), as eDiff-I trains SR256: blur, resize, noise, JPEG,
then all of it once more, and a sinc filter before or after the last JPEG. Resizing is torch's `interpolate`, JPEG is
torchvision's, convolution scipy's.

Our choices. The target is not sharpened, as Real-ESRGAN's is. Poisson noise counts up to 256, the levels of an 8-bit
image, where Real-ESRGAN counts the levels that occur in an image: a photograph has nearly all of them, while noise
would cover a drawing of a few flat colours. JPEG is real, so its quality is a whole number. The output is not rounded
to 8 bits.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ediffi.data.degradation.kernels import Kernel, draw_sinc
from ediffi.data.degradation.rounds import (
    DrawnRound,
    Mode,
    NoiseKind,
    Round,
    check_probabilities,
    draw_mode,
    second_round,
)

LEVELS = 256
REACH = 128
"""Pixels around a crop that its degradation reads: kernels have 10 to each side, of the image, of what the first round
makes of it (0.15 times as large at least) and of the low-resolution image."""
PURPOSE = 1  # separates these random numbers from others of the same seed and position


@dataclass(frozen=True)
class DrawnDegradation:
    """The choices of a degradation: two rounds, the last sinc (None: none), its place, and the last interpolation."""

    first: DrawnRound
    second: DrawnRound
    sinc: Kernel | None
    jpeg_last: bool
    mode: Mode


@dataclass(frozen=True)
class Degradation:
    """Makes the low-resolution input of a training image.

    Args:
        scale: how many times smaller than the image it is.
        strength: 1 as published, less for weaker: it multiplies the widths of blurs, the levels of noise, the loss of
            JPEG and the probabilities of sincs and of crude interpolation, and is the power of the scales. 0 is off:
            averaging, and nothing else.
        probability: share of the images that are degraded; the others are averaged down.
        first: the first round.
        second: the second round, at the low resolution.
        final_sinc: probability of the last sinc filter.
    """

    scale: int = 4
    strength: float = 1.0
    probability: float = 1.0
    first: Round = field(default_factory=Round)
    second: Round = field(default_factory=second_round)
    final_sinc: float = 0.8

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise ValueError(f"scale must be at least 2, got {self.scale}")
        check_probabilities(strength=self.strength, probability=self.probability, final_sinc=self.final_sinc)

    def __call__(self, image: Float[Tensor, "3 H W"], rng: np.random.Generator) -> Float[Tensor, "3 h w"]:
        """The low-resolution image [3, H // scale, W // scale] of a clean one, both in [-1, 1]; ValueError if too
        small."""
        if min(image.shape[1:]) < self.scale:
            size = f"{image.shape[2]}x{image.shape[1]}"
            raise ValueError(f"an image of {size} is too small to be {self.scale} times smaller")
        drawn = self.draw(rng)
        return F.avg_pool2d(image[None], self.scale)[0] if drawn is None else self.apply(drawn, image, rng)

    def draw(self, rng: np.random.Generator) -> DrawnDegradation | None:
        """Draw how an image is degraded; None where it is only averaged down."""
        if self.strength == 0 or rng.random() >= self.probability:
            return None
        first, second = self.first.draw(rng, self.strength), self.second.draw(rng, self.strength)
        sinc = draw_sinc(rng, math.pi / 3) if rng.random() < self.final_sinc * self.strength else None
        return DrawnDegradation(first, second, sinc, bool(rng.random() < 0.5), draw_mode(rng, self.strength))

    def apply(
        self, drawn: DrawnDegradation, image: Float[Tensor, "3 H W"], rng: np.random.Generator
    ) -> Float[Tensor, "3 h w"]:
        """Degrade an image in [-1, 1] with the choices that were drawn; the noise itself is drawn here."""
        height, width = (side // self.scale for side in image.shape[1:])
        out = image[:, : height * self.scale, : width * self.scale].clamp(-1, 1) / 2 + 0.5
        out = jpeg(_blur_resize_noise(out, drawn.first, out.shape[1], out.shape[2], rng), drawn.first.quality)
        out = _blur_resize_noise(out, drawn.second, height, width, rng)
        if not drawn.jpeg_last:
            out = jpeg(out, drawn.second.quality)
        out = resize(out, height, width, drawn.mode)
        if drawn.sinc is not None:
            out = drawn.sinc.blur(out)
        if drawn.jpeg_last:
            out = jpeg(out, drawn.second.quality)
        return out.clamp(0, 1) * 2 - 1


def random_source(seed: int, *position: int) -> np.random.Generator:
    """The random numbers of one image: a function of seed and position (epoch, index, ...) only."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSE, *position)))


def resize(image: Float[Tensor, "c h w"], height: int, width: int, mode: Mode) -> Float[Tensor, "c height width"]:
    """Resize as Real-ESRGAN does: without antialiasing, so bilinear and bicubic alias where the image gets smaller."""
    return F.interpolate(image[None], size=(height, width), mode=mode)[0]


def add_noise(
    image: Float[Tensor, "3 h w"], noise: NoiseKind, level: float, gray: bool, rng: np.random.Generator
) -> Float[Tensor, "3 h w"]:
    """Add noise to an image in [0, 1], and clip. Gaussian noise has the standard deviation `level / 255`. Poisson noise
    is `level` times the error of counting up to 256 photons, so of standard deviation `level · sqrt(value / 256)`. Gray
    noise is the same in all channels; Poisson noise is then that of the luminance."""
    image = image.clamp(0, 1)
    if noise == "gaussian":
        shape = (1 if gray else 3, *image.shape[1:])
        return (image + torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) * (level / 255)).clamp(0, 1)
    expected = ((transforms.rgb_to_grayscale(image) if gray else image) * 255).round() / 255
    counted = torch.from_numpy(rng.poisson(expected.numpy() * LEVELS).astype(np.float32)) / LEVELS
    return (image + level * (counted - expected)).clamp(0, 1)


def jpeg(image: Float[Tensor, "3 h w"], quality: int) -> Float[Tensor, "3 h w"]:
    """An image in [0, 1], written as JPEG and read again; unchanged at quality 100, which stands for no loss."""
    if quality >= 100:
        return image
    return transforms.jpeg((image.clamp(0, 1) * 255).round().byte(), quality).float() / 255


def _blur_resize_noise(image: Tensor, drawn: DrawnRound, height: int, width: int, rng: np.random.Generator) -> Tensor:
    if drawn.kernel is not None:
        image = drawn.kernel.blur(image)
    image = resize(image, max(1, round(height * drawn.scale)), max(1, round(width * drawn.scale)), drawn.mode)
    return add_noise(image, drawn.noise, drawn.level, drawn.gray, rng)
