"""The random choices of one round of degradation: blur, scale, noise and JPEG quality.

Defaults are the published probabilities and ranges of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 4.1, and
the authors' settings), those of the first round.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ediffi.data.degradation.kernels import SIZES, Kernel, KernelKind, draw_sinc

Mode = Literal["area", "bilinear", "bicubic"]
NoiseKind = Literal["gaussian", "poisson"]
MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")

KERNELS: dict[str, tuple[KernelKind, bool]] = {
    "iso": ("gaussian", True),
    "aniso": ("gaussian", False),
    "generalized_iso": ("generalized", True),
    "generalized_aniso": ("generalized", False),
    "plateau_iso": ("plateau", True),
    "plateau_aniso": ("plateau", False),
}
"""Name, formula, and whether it is isotropic."""
PUBLISHED = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # probabilities of `KERNELS`


@dataclass(frozen=True)
class Blur:
    """Draws a kernel.

    Args:
        probability: of any blur.
        sinc: probability that the kernel is a sinc.
        kernels: probabilities of the other kernels.
        sigma: range of their standard deviations, in pixels.
        generalized_beta: range of the exponent; values below and above 1 are equally likely.
        plateau_beta: likewise.
    """

    probability: float = 1.0
    sinc: float = 0.1
    kernels: Mapping[str, float] = field(default_factory=lambda: dict(zip(KERNELS, PUBLISHED, strict=True)))
    sigma: tuple[float, float] = (0.2, 3.0)
    generalized_beta: tuple[float, float] = (0.5, 4.0)
    plateau_beta: tuple[float, float] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kernels) - set(KERNELS)):
            raise ValueError(f"no blur kernel is called {unknown[0]!r}; there are {', '.join(KERNELS)}")
        _check_shares("kernels", list(self.kernels.values()))
        check_probabilities(probability=self.probability, sinc=self.sinc)
        _check_range("sigma", self.sigma, least=0.01)
        _check_around_one("generalized_beta", self.generalized_beta)
        _check_around_one("plateau_beta", self.plateau_beta)

    def draw(self, rng: np.random.Generator, strength: float = 1.0) -> Kernel | None:
        """A kernel, its widths and the probability of a sinc multiplied by `strength`; None for no blur."""
        if rng.random() >= self.probability:
            return None
        if rng.random() < self.sinc * strength:
            return draw_sinc(rng)
        kind, isotropic = KERNELS[rng.choice(list(self.kernels), p=list(self.kernels.values()))]
        size, x = int(rng.choice(SIZES)), strength * rng.uniform(*self.sigma)
        y, angle = (x, 0.0) if isotropic else (strength * rng.uniform(*self.sigma), rng.uniform(-math.pi, math.pi))
        if kind == "gaussian":
            return Kernel(kind, size, (x, y), angle)
        low, high = self.generalized_beta if kind == "generalized" else self.plateau_beta
        beta = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
        return Kernel(kind, size, (x, y), angle, beta)


@dataclass(frozen=True)
class Resize:
    """Draws a scale.

    Args:
        shares: probabilities of larger, smaller and the same size.
        scale: the smallest and the largest, on either side of 1; uniform between 1 and either.
    """

    shares: tuple[float, float, float] = (0.2, 0.7, 0.1)
    scale: tuple[float, float] = (0.15, 1.5)

    def __post_init__(self) -> None:
        _check_shares("shares", self.shares)
        _check_around_one("scale", self.scale)

    def draw(self, rng: np.random.Generator, strength: float = 1.0) -> tuple[float, Mode]:
        """A scale, to the power of `strength`, and how pixels are interpolated."""
        low, high = self.scale
        scale = (rng.uniform(1, high), rng.uniform(low, 1), 1.0)[int(rng.choice(3, p=self.shares))]
        return scale**strength, draw_mode(rng, strength)  # a power: half the strength of ÷4 is ÷2


@dataclass(frozen=True)
class Noise:
    """Draws noise.

    Args:
        gaussian: probability of Gaussian noise; the rest is Poisson noise.
        sigma: range of the standard deviation of Gaussian noise, for pixels from 0 to 255.
        poisson: range of the factor on Poisson noise.
        gray: probability that all channels have the same noise.
    """

    gaussian: float = 0.5
    sigma: tuple[float, float] = (1.0, 30.0)
    poisson: tuple[float, float] = (0.05, 3.0)
    gray: float = 0.4

    def __post_init__(self) -> None:
        check_probabilities(gaussian=self.gaussian, gray=self.gray)
        _check_range("sigma", self.sigma, least=0)
        _check_range("poisson", self.poisson, least=0)

    def draw(self, rng: np.random.Generator, strength: float = 1.0) -> tuple[NoiseKind, float, bool]:
        """Which noise, its level multiplied by `strength`, and whether it is gray."""
        gray = bool(rng.random() < self.gray)
        if rng.random() < self.gaussian:
            return "gaussian", strength * rng.uniform(*self.sigma), gray
        return "poisson", strength * rng.uniform(*self.poisson), gray


@dataclass(frozen=True)
class Round:
    """The ranges of one round of degradation.

    Args:
        blur: its kernels.
        resize: its scales.
        noise: its noise.
        jpeg: range of the JPEG quality, 1 to 100.
    """

    blur: Blur = field(default_factory=Blur)
    resize: Resize = field(default_factory=Resize)
    noise: Noise = field(default_factory=Noise)
    jpeg: tuple[int, int] = (30, 95)

    def __post_init__(self) -> None:
        _check_range("jpeg", self.jpeg, least=1, most=100)

    def draw(self, rng: np.random.Generator, strength: float) -> "DrawnRound":
        """Draw everything but the noise itself."""
        kernel = self.blur.draw(rng, strength)
        scale, mode = self.resize.draw(rng, strength)
        noise, level, gray = self.noise.draw(rng, strength)
        quality = round(100 - (100 - rng.uniform(*self.jpeg)) * strength)  # strength 0: quality 100, no JPEG
        return DrawnRound(kernel, scale, mode, noise, level, gray, quality)


def second_round() -> Round:
    """The published second round: weaker, and sometimes without blur."""
    return Round(
        Blur(probability=0.8, sigma=(0.2, 1.5)),
        Resize((0.3, 0.4, 0.3), (0.3, 1.2)),
        Noise(sigma=(1.0, 25.0), poisson=(0.05, 2.5)),
    )


@dataclass(frozen=True)
class DrawnRound:
    """The choices of a round: kernel (None: no blur), scale, interpolation, noise, its level, JPEG quality."""

    kernel: Kernel | None
    scale: float
    mode: Mode
    noise: NoiseKind
    level: float
    gray: bool
    quality: int


def draw_mode(rng: np.random.Generator, strength: float) -> Mode:
    """How pixels are interpolated: in any way, but more often by area, the lower the strength."""
    mode = MODES[int(rng.integers(len(MODES)))]
    return mode if rng.random() < strength else "area"


def check_probabilities(**values: float) -> None:
    """Raise a ValueError that names the first value outside of [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_shares(name: str, shares: Sequence[float]) -> None:
    if not all(share >= 0 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"{name} must be at least 0 and add up to 1, got {list(shares)}")


def _check_range(name: str, bounds: tuple[float, float], least: float, most: float = math.inf) -> None:
    low, high = bounds
    if not least <= low <= high <= most:
        allowed = f"from {least:g} to {most:g}" if most < math.inf else f"at least {least:g}"
        raise ValueError(f"{name} must be two values {allowed}, the lower first, got {list(bounds)}")


def _check_around_one(name: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if not 0 < low <= 1 <= high < math.inf:
        raise ValueError(f"{name} must be two values, one in (0, 1] and one of at least 1, got {list(bounds)}")
