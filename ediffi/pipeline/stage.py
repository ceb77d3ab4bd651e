"""One stage of a cascade at inference: a denoiser, its sampling settings, and what steers it."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.diffusion.editing import EditSource, InpaintingDenoiser
from ediffi.diffusion.experts import AutocastDenoiser, compile_networks, in_dtype
from ediffi.diffusion.guidance import (
    ClassifierFreeGuidance,
    DynamicThresholding,
    GuidanceSchedule,
    PromptSwitching,
    SigmaRange,
)
from ediffi.diffusion.low_res import augment
from ediffi.diffusion.paint import PaintWithWords
from ediffi.io.numbers import check_number, is_pair
from ediffi.registry import samplers
from ediffi.registry.core import UnknownNameError
from ediffi.registry.denoisers.precondition import upsample
from ediffi.registry.random import Philox, randn
from ediffi.registry.samplers.presets import PRESETS, preset
from ediffi.registry.samplers.schedules import GRIDS, Grid
from ediffi.registry.types import Callback, Conditioning, Denoiser, Sampler, at_level

MAX_STEPS = 10_000
"""Steps of a stage: a grid of 10⁹ takes all memory before the first step."""
RANGES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "num_inference_steps": (int, lambda steps: 1 <= steps <= MAX_STEPS, f"from 1 to {MAX_STEPS}"),
    "guidance_scale": (float, lambda w: 0 <= w < float("inf"), "at least 0 and finite (1 is off)"),
    "guidance_interval": (tuple, lambda ends: 0 <= ends[0] < ends[1], "two rising noise levels, at least 0"),
    "dynamic_threshold": (float, lambda quantile: 0 < quantile <= 1, "above 0 and at most 1 (Imagen: 0.995)"),
    "paint_weight": (float, lambda w: 0 <= w < float("inf"), "at least 0 (0 is off)"),
}
"""The kind and the allowed values of sampling settings, as a condition and in words, as in `SamplingOptions`."""


def check_range(name: str, value: Any) -> None:
    """ValueError unless the value of a setting is of its kind and in its range; None always is."""
    kind, allowed, words = RANGES[name]
    if value is None:
        return
    if kind is not tuple:
        check_number(name, value, allowed, words, kind)
    elif not (is_pair(value) and allowed(value)):
        raise ValueError(f"{name} must be {words}, got {value}")


class NotFiniteError(ValueError):
    """A stage made numbers that are infinite or not a number, which are no image."""


@dataclass(frozen=True)
class Sampling:
    """The sampling settings of a stage.

    Attributes:
        sampler: name of a registered sampler.
        num_inference_steps: steps of the grid, with the last one to 0.
        guidance_scale: w of `uncond + w·(cond - uncond)`; 1 is off.
        sigma_min: last noise level before 0.
        sigma_max: first noise level.
        rho: exponent of the grid.
        arguments: of the sampler.
        guidance_interval: (low, high]: guidance applies for low < sigma <= high; None for all noise levels.
        dynamic_threshold: quantile of Imagen's dynamic thresholding; None for off.
        paint_weight: w' of paint-with-words; 0 is off.
        grid: "karras" is uniform in sigma^(1/rho) (EDM, equation 5), "vp_time" in t^(1/rho), the time of the linear VP
            schedule.

    Raises:
        ValueError: a value is out of range (the sampler and the grid check theirs).
    """

    sampler: str = "dpmpp_2m"
    num_inference_steps: int = 20
    guidance_scale: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    guidance_interval: SigmaRange | None = None
    dynamic_threshold: float | None = None
    paint_weight: float = 0.0
    grid: Grid = "karras"

    def __post_init__(self) -> None:
        if self.guidance_interval is not None:  # JSON has lists
            object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))
        if self.grid not in GRIDS:
            raise UnknownNameError.among(GRIDS, "grid", self.grid)
        for name in RANGES:
            check_range(name, getattr(self, name))

    def build(self) -> Sampler:
        """The sampler, from the registry; ValueError if what is registered is none."""
        sampler = samplers.create(self.sampler, **self.arguments)
        if not isinstance(sampler, Sampler):
            raise ValueError(f"the sampler {self.sampler!r} has no method nfe(num_steps), which every sampler needs")
        return sampler

    def sigmas(self) -> Float[Tensor, " s"]:
        """The grid of noise levels, ending in 0."""
        return GRIDS[self.grid](self.num_inference_steps, self.sigma_min, self.sigma_max, self.rho)

    @property
    def nfe(self) -> int:
        """Network evaluations of the sampler; guidance makes each larger, not their number."""
        return self.build().nfe(self.num_inference_steps)

    def with_sampler(self, name: str, super_resolution: bool) -> "Sampling":
        """The settings with another sampler, or with the sampler, steps and grid of a preset, by registry name."""
        if name in PRESETS:
            chosen = preset(name, "super_resolution" if super_resolution else "base")
            rest: dict[str, Any] = {"rho": chosen.rho, "arguments": chosen.arguments, "grid": chosen.grid}
            return dataclasses.replace(self, sampler=chosen.sampler, num_inference_steps=chosen.num_steps, **rest)
        samplers.REGISTRY.factory(name)
        return dataclasses.replace(self, sampler=name, arguments={})


@dataclass(frozen=True)
class Steering:
    """What steers a stage besides its conditioning and its settings."""

    negative: Conditioning | None = None  # guidance moves away from it; None for the null condition
    style_scale: float = 1.0  # see `ClassifierFreeGuidance`
    after: Conditioning | None = None  # takes over for the last steps
    switch_at: float = 1.0  # share of the steps, from the noisiest, before it does
    sampler: Sampler | None = None  # instead of the settings' own
    sigmas: Float[Tensor, " s"] | None = None  # instead of the settings' grid
    guidance: GuidanceSchedule | None = None  # instead of the settings' guidance scale
    noise: Float[Tensor, "b 3 h w"] | None = None  # standard normal; instead of the noise of the seed

    def grid(self, sampling: Sampling) -> Float[Tensor, " s"]:
        """The noise levels of a stage, ending in 0."""
        return sampling.sigmas() if self.sigmas is None else self.sigmas

    def described(self, sampling: Sampling) -> dict[str, Any]:
        """The settings that a stage runs with, as JSON values; a sampler without a name by its `repr`."""
        sampler = self.sampler or sampling.build()
        settings = dataclasses.asdict(sampling) | {"nfe": sampler.nfe(sampling.num_inference_steps)}
        if self.sampler is not None:
            settings |= {"sampler": repr(self.sampler), "arguments": {}}
        if self.sigmas is not None:
            settings["sigmas"] = self.sigmas.tolist()
        if self.guidance is not None:
            settings["guidance_scale"] = [[s, self.guidance(s)] for s in self.grid(sampling).tolist() if s]
        return settings


@dataclass(frozen=True)
class Stage:
    """A stage, ready to sample.

    Attributes:
        name: "base", "sr64", ...
        resolution: side of its images in pixels.
        denoiser: the network, or any denoiser.
        sampling: its default settings.
        aug_level: standard deviation of the noise that is added to the low-resolution image before it becomes
            conditioning; None in the base stage.
        compiled: whether its networks are compiled.
    """

    name: str
    resolution: int
    denoiser: nn.Module
    sampling: Sampling
    aug_level: float | None = None
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The format that its networks run in: of autocast, or float32."""
        return self.denoiser.dtype if isinstance(self.denoiser, AutocastDenoiser) else torch.float32

    def to(self, device: torch.device, dtype: torch.dtype, compile: bool = False) -> "Stage":
        """The stage with its networks moved, in place, to a device and a dtype, and compiled; see `Cascade.to`."""
        denoiser = self.denoiser.to(device)
        if dtype != self.dtype:
            denoiser = in_dtype(denoiser, dtype)
        if compile and not self.compiled:
            compile_networks(denoiser, device)
        return dataclasses.replace(self, denoiser=denoiser, compiled=self.compiled or compile)

    def __call__(
        self,
        cond: Conditioning,
        randomness: Philox,
        *,
        low_res: Float[Tensor, "b 3 h w"] | None = None,
        source: EditSource | None = None,
        steering: Steering = Steering(),
        sampling: Sampling | None = None,
        callback: Callback | None = None,
    ) -> Float[Tensor, "b 3 H W"]:
        """Sample images in [-1, 1].

        Args:
            cond: the conditioning of a batch.
            randomness: of the batch; each stage has its own numbers, whichever stages run before it.
            low_res: the previous stage's images in [-1, 1]; ValueError unless the stage is of super-resolution.
            source: images to start from instead of noise.
            steering: negative, style and switching.
            sampling: instead of the stage's own.
            callback: called after each step.
        """
        if (low_res is None) != (self.aug_level is None):
            raise ValueError(f"stage {self.name!r} {'takes no' if self.aug_level is None else 'needs'} low_res")
        sampling = sampling or self.sampling
        noise = self.start_noise(randomness) if steering.noise is None else steering.noise
        randomness = randomness.of(self.name)
        device, size = next(self.denoiser.parameters()).device, (self.resolution, self.resolution)
        centre = None
        if low_res is not None and self.aug_level is not None:
            level = torch.full((len(low_res),), self.aug_level, device=low_res.device)
            added = randn(low_res.shape, randomness.of("low_res"), low_res.device)
            cond = cond.with_low_res(augment(low_res, level, added), level)
            centre = upsample(low_res, size)
        sigmas = steering.grid(sampling)
        denoiser = self._steered(sampling, steering, source)
        if source is not None and source.strength < 1:
            sigmas, centre = source.remaining(sigmas), source.images
            if len(sigmas) == 1:
                return source.images
        if steering.after is not None:
            skipped = sampling.num_inference_steps - (len(sigmas) - 1)
            first = round(steering.switch_at * sampling.num_inference_steps) - skipped
            denoiser = switching = PromptSwitching(denoiser, steering.after, first)
            callback = switching.counting(callback)
        x = noise.to(device) * sigmas[0]
        if centre is not None:
            # Noisy images of level sigma_max are centred on the image; sigma_max is not large enough to hide that. Our
            # choice for super-resolution, where the paper is silent.
            x = x + centre
        with torch.inference_mode():
            images = (steering.sampler or sampling.build())(
                _Bound(denoiser, cond, self.compiled),
                x,
                sigmas,
                generator=randomness.of("sampler"),
                callback=callback,
            )
        if not images.isfinite().all():  # the whole stage is done: waiting for the device costs nothing here
            reason = "a weight of the model is not, or a setting, such as the guidance scale, is far too large"
            raise NotFiniteError(f"stage {self.name!r} made numbers that are not finite: {reason}")
        return images.clamp(-1, 1)

    def start_noise(self, randomness: Philox) -> Float[Tensor, "b 3 H W"]:
        """The standard normal noise that images start from; times the first sigma it is their first state."""
        shape = (len(randomness), 3, self.resolution, self.resolution)
        return randn(shape, randomness.of(self.name).of("start"), next(self.denoiser.parameters()).device)

    def _steered(self, sampling: Sampling, steering: Steering, source: EditSource | None) -> Denoiser:
        # Innermost first. Thresholding comes after guidance, whose sum leaves [-1, 1]; inpainting is last, so that
        # kept pixels are exactly the image's.
        denoiser: Denoiser = PaintWithWords(self.denoiser, sampling.paint_weight)
        denoiser = ClassifierFreeGuidance(
            denoiser,
            steering.guidance or sampling.guidance_scale,
            steering.negative,
            sampling.guidance_interval,
            steering.style_scale,
        )
        if sampling.dynamic_threshold is not None:
            denoiser = DynamicThresholding(denoiser, sampling.dynamic_threshold)
        return denoiser if source is None or source.mask is None else InpaintingDenoiser(denoiser, source)


@dataclass(frozen=True)
class _Bound:
    """A denoiser with its conditioning, as a sampler calls it."""

    denoiser: Denoiser
    cond: Conditioning
    compiled: bool

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        denoised = self.denoiser(x, sigma, self.cond)
        # the next replay of a captured graph writes into the same memory
        return denoised.clone() if self.compiled else denoised

    def at(self, sigma: float) -> "_Bound":
        return dataclasses.replace(self, denoiser=at_level(self.denoiser, sigma))
