"""The options of a generation: one checked value, from the command line and the Python call down to the stages."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.guidance import SigmaRange
from ediffi.diffusion.layout import Region
from ediffi.io.image_input import ImageInput, read_image
from ediffi.io.numbers import check_number
from ediffi.pipeline.prompt import parse
from ediffi.pipeline.stage import RANGES, Sampling, Stage, check_range

PER_STAGE = ("num_inference_steps", "guidance_scale", "paint_weight")
"""The options that may have one value per stage."""
MAX_ASPECT = 100
"""How many times a style image may be as long as wide. Encoders resize it before they crop it, which would take all
memory of a longer one."""


@dataclass(frozen=True, init=False)
class Style:
    """A style image.

    Args:
        image: of any size, a path, a Pillow image, an array or a tensor, see `ediffi.io.image_input`; laid on white
            where it is transparent; the encoder scales it and crops the centre square. It is kept as RGB.
        scale: strength of the style, at least 0: 1 as in training, 0 none.

    Raises:
        ValueError: the scale is out of range, or the image is hundred times as long as wide; as `read_image`.
    """

    image: Image.Image
    scale: float

    def __init__(self, image: ImageInput, scale: float = 1.0) -> None:
        check_number("style_scale", scale, lambda s: 0 <= s < float("inf"), "at least 0")
        read = read_image(image, "the style image")
        if max(read.size) > MAX_ASPECT * min(read.size):
            raise ValueError(
                f"the style image is {read.width}x{read.height}; at most {MAX_ASPECT} times as long as wide is allowed"
            )
        object.__setattr__(self, "image", read)
        object.__setattr__(self, "scale", scale)


@dataclass(frozen=True)
class Switch:
    """A second prompt that takes over in the base stage (eDiff-I, figure 4).

    Args:
        prompt: the second prompt.
        at: share of the base stage's steps, from the noisiest, that the first prompt keeps. Super-resolution stages
            read the prompt that had the larger share.
    """

    prompt: str
    at: float

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise ValueError(f"switch at must be in [0, 1], a share of the steps, got {self.at}")


@dataclass(frozen=True)
class SamplingOptions:
    """The options of a generation, the same for all of its prompts.

    An option "of the base stage, or one per stage" takes one number for the base stage, or a list with one number for
    each stage. None is the model's own setting.

    Args:
        negative_prompt: guidance moves away from it; None for the null condition.
        num_images_per_prompt: images for each prompt, at least 1.
        seed: image k of a call is a function of (seed, first_index + k), whatever the batch.
        first_index: index of the call's first image in a run of several calls.
        num_inference_steps: of the base stage, or one per stage.
        guidance_scale: w of `uncond + w·(cond - uncond)`, 1 is off; of the base stage, or one per stage.
        sampler: a sampler, or a preset ("paper-steps", "paper-nfe"), for all stages.
        guidance_interval: (low, high]: guidance in the base stage applies for low < sigma <= high.
        dynamic_threshold: quantile of dynamic thresholding in the base stage, in (0, 1].
        paint_weight: w' of paint-with-words, 0 is off; of the base stage, or one per stage.
        style: a style image.
        paint: phrases of the prompt and their regions of the image.
        switch: a second prompt that takes over in the base stage.
        edit: an image to start from instead of noise.
        low_res: a square image to super-resolve, instead of sampling the stages before `first_stage`.
        first_stage: the stage that takes `low_res`; by default the one whose input is nearest to its size.

    Raises:
        ValueError: a number is out of range, or a prompt is empty or too long.
    """

    negative_prompt: str | None = None
    num_images_per_prompt: int = 1
    seed: int = 0
    first_index: int = 0
    num_inference_steps: int | Sequence[int] | None = None
    guidance_scale: float | Sequence[float] | None = None
    sampler: str | None = None
    guidance_interval: SigmaRange | None = None
    dynamic_threshold: float | None = None
    paint_weight: float | Sequence[float] | None = None
    style: Style | None = None
    paint: Sequence[Region] = ()
    switch: Switch | None = None
    edit: Edit | None = None
    low_res: Image.Image | None = None
    first_stage: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "paint", tuple(self.paint))
        for prompt in (self.negative_prompt, None if self.switch is None else self.switch.prompt):
            if prompt is not None:
                parse(prompt)
        if self.num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, got {self.num_images_per_prompt}")
        for name in RANGES:
            values = self._values(name)
            if not values and getattr(self, name) is not None:
                raise ValueError(f"{name} is an empty list; give one value, or one for each stage")
            for value in values:
                check_range(name, value)

    def plan(self, defaults: Sequence[Sampling]) -> list[Sampling]:
        """The settings of each stage: the model's own, except for what the options set.

        ValueError: the sampler is unknown, or an option has a number of values that is not that of the stages.
        """
        plan = list(defaults)
        if self.sampler is not None:
            plan = [s.with_sampler(self.sampler, k > 0) for k, s in enumerate(plan)]
        for name in RANGES:
            values = self._values(name)
            if values and len(values) not in (1, len(plan)):
                raise ValueError(f"{name} has {len(values)} values; give 1, or {len(plan)}, one for each stage")
            changed = [dataclasses.replace(s, **{name: v}) for s, v in zip(plan, values, strict=False)]
            plan = changed + plan[len(changed) :]
        return plan

    def entry(
        self, stages: Sequence[Stage], batch: int, device: torch.device
    ) -> tuple[int, Float[Tensor, "b 3 h w"] | None]:
        """The index of the first stage to run, and the images that it enlarges; ValueError if it does not exist."""
        name = self.first_stage
        if self.low_res is None:
            if name not in (None, stages[0].name):
                raise ValueError(f"first_stage {name!r} needs low_res, the image that it enlarges")
            return 0, None
        inputs = {stage.name: below.resolution for below, stage in pairwise(stages)}
        if not inputs:
            raise ValueError("low_res needs a super-resolution stage, and the model has none")
        if name is None:
            width = self.low_res.width
            name = min(inputs, key=lambda stage: abs(inputs[stage] - width))
        if name not in inputs:
            raise ValueError(f"no super-resolution stage {name!r}; there are {', '.join(inputs)}")
        images = Edit(self.low_res).at(inputs[name], batch, device).images
        return [stage.name for stage in stages].index(name), images

    def described(self) -> dict[str, Any]:
        """The options that are in use, apart from the stages' sampling, as JSON values; images by their sha256."""
        names = ("style", "paint", "switch", "edit", "low_res", "first_stage")
        return {name: _plain(value) for name in names if (value := getattr(self, name)) is not None and value != ()}

    def _values(self, name: str) -> list[Any]:
        # None is the model's own setting: no value.
        option = getattr(self, name)
        if name in PER_STAGE and isinstance(option, Sequence):
            return list(option)
        return [] if option is None else [option]


def _plain(value: Any) -> Any:
    if isinstance(value, Image.Image):
        return {"size": list(value.size), "sha256": hashlib.sha256(value.tobytes()).hexdigest()}
    if isinstance(value, Tensor):
        return {"size": list(value.shape), "sha256": hashlib.sha256(value.numpy().tobytes()).hexdigest()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
