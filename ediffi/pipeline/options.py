"""The options of a generation: one checked value, from the command line and the Python call down to the stages."""

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.guidance import GuidanceSchedule, SigmaRange
from ediffi.diffusion.layout import Region
from ediffi.io.numbers import check_number, is_number, is_pair
from ediffi.pipeline import inputs
from ediffi.pipeline.prompt import parse
from ediffi.pipeline.stage import RANGES, Sampling, Stage, Steering, check_range
from ediffi.pipeline.style import Style, Switch
from ediffi.registry.random import Philox
from ediffi.registry.samplers.solver import levels
from ediffi.registry.types import Sampler

PER_STAGE = ("num_inference_steps", "guidance_scale", "paint_weight", "sampler", "sigmas")
"""The options that may have one value per stage."""
PER_PROMPT = ("negative_prompt", "style", "switch", "edit", "low_res")
"""The options that may have one value for each prompt; `paint` may have one layout for each."""
INPUTS = ("style", "paint", "edit", "low_res", "noise")
"""The options that hold images, masks or noise."""
MAX_IMAGES = 100_000
"""Images of a prompt in one call."""
Guidance = float | Callable[[float], float] | Sequence[Sequence[float]]
"""w, a function of sigma, or pairs (sigma, w), see `GuidanceSchedule`."""


@dataclass(frozen=True)
class SamplingOptions:
    """The options of a generation, of one prompt or several.

    An option "of the base stage, or one per stage" takes one value for the base stage, or a list with one for each
    stage. An option "for all prompts, or one for each" takes one value, or a list as long as the prompts. None is the
    model's own setting.

    Args:
        negative_prompt: guidance moves away from it; for all prompts, or one for each; None for the null condition.
        num_images_per_prompt: images for each prompt, at least 1.
        seed: image k of a call is a function of (seed, first_index + k), whatever the batch. A list has one for each
            image, which is then that of (seed[k], first_index). None draws one, which the settings show.
        first_index: index of the call's first image in a run of several calls.
        num_inference_steps: of the base stage, or one per stage.
        guidance_scale: w of `uncond + w·(cond - uncond)`, 1 is off; or a schedule, see `Guidance`; of the base stage,
            or one per stage.
        sampler: a sampler, or a preset ("paper-steps", "paper-nfe"), by name or as an object; for all stages, or one
            per stage.
        guidance_interval: (low, high]: guidance in the base stage applies for low < sigma <= high.
        dynamic_threshold: quantile of dynamic thresholding in the base stage, in (0, 1].
        paint_weight: w' of paint-with-words, 0 is off; of the base stage, or one per stage.
        style: a style image; for all prompts, or one for each.
        paint: phrases of the prompt and their regions of the image; for all prompts, or a list of them for each.
        switch: a second prompt that takes over in the base stage; for all prompts, or one for each, at the same share.
        edit: an image to start from instead of noise; for all prompts, or one for each, of the same strength.
        low_res: a square image to super-resolve, instead of sampling the stages before `first_stage`; for all prompts,
            or one for each.
        first_stage: the stage that takes `low_res`; by default the one whose input is nearest to its size.
        sigmas: noise levels, decreasing, instead of the grid of the sampling settings; a 0 at the end may be left out;
            of the base stage, or one list (or None) per stage.
        noise: [b, 3, h, w] standard normal noise to start from instead of that of the seed, by the name of the stage.

    Raises:
        ValueError: a value is of a wrong kind or out of range, or a prompt is empty or too long.
    """

    negative_prompt: str | Sequence[str | None] | None = None
    num_images_per_prompt: int = 1
    seed: int | Sequence[int] | None = 0
    first_index: int = 0
    num_inference_steps: int | Sequence[int] | None = None
    guidance_scale: Guidance | Sequence[Guidance] | None = None
    sampler: str | Sampler | Sequence[str | Sampler] | None = None
    guidance_interval: SigmaRange | None = None
    dynamic_threshold: float | None = None
    paint_weight: float | Sequence[float] | None = None
    style: Style | Sequence[Style | None] | None = None
    paint: Sequence[Region] | Sequence[Sequence[Region]] = ()
    switch: Switch | Sequence[Switch] | None = None
    edit: Edit | Sequence[Edit] | None = None
    low_res: Image.Image | Sequence[Image.Image] | None = None
    first_stage: str | None = None
    sigmas: Sequence[float] | Sequence[Sequence[float] | None] | None = None
    noise: Mapping[str, Float[Tensor, "b 3 _ _"]] | None = None

    def __post_init__(self) -> None:
        for name in ("seed", "num_images_per_prompt", "first_index", "sigmas", *RANGES):  # as JSON can hold them
            object.__setattr__(self, name, _native(getattr(self, name)))
        kinds = {"negative_prompt": str, "style": Style, "switch": Switch, "edit": Edit, "low_res": Image.Image}
        for name in (*PER_PROMPT, *PER_STAGE, "paint", "seed", "guidance_interval"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
            for one in _listed(value) if name in PER_PROMPT else ():
                if one is not None and not isinstance(one, kinds[name]):
                    raise ValueError(f"{name} must be a {kinds[name].__name__}, or one for each prompt, got {one!r}")
        layouts: Any = self.paint if self._layouts else [self.paint]
        for layout in layouts:
            if not all(isinstance(region, Region) for region in layout):
                raise ValueError(f"paint must be regions, or a list of them for each prompt, got {self.paint!r}")
        for prompt in _listed(self.negative_prompt):
            if prompt is not None and not prompt.strip():
                raise ValueError("the negative prompt is empty; leave it out, or give None")
            if prompt is not None:
                parse(prompt)
        count = self.num_images_per_prompt
        check_number("num_images_per_prompt", count, lambda n: 1 <= n <= MAX_IMAGES, f"from 1 to {MAX_IMAGES}", int)
        check_number("first_index", self.first_index, lambda n: n >= 0, "at least 0", int)
        object.__setattr__(self, "seed", secrets.randbits(32) if self.seed is None else self.seed)
        for seed in _listed(self.seed):
            check_number("seed", seed, lambda n: n >= 0, "at least 0", int)
        for name in ("switch", "edit"):
            shares = {one.at if isinstance(one, Switch) else one.strength for one in _listed(getattr(self, name))}
            if len(shares) > 1:
                raise ValueError(f"the {name} of all prompts must have one share of the steps, got {sorted(shares)}")
        if self.sigmas is not None and self.num_inference_steps is not None:
            raise ValueError("sigmas says how many steps there are: give it, or num_inference_steps")
        for name in (*RANGES, "sampler", "sigmas"):
            self._check_stages(name)

    def _check_stages(self, name: str) -> None:
        values = self._values(name)
        if not values and getattr(self, name) is not None:
            raise ValueError(f"{name} is an empty list; give one value, or one for each stage")
        for value in values:
            if name == "sampler":
                if not isinstance(value, str | Sampler):
                    raise ValueError(f"sampler must be a name, or an object with nfe(num_steps), got {value!r}")
            elif name == "sigmas":
                _grid(value)
            elif name != "guidance_scale" or _schedule(value) is None:
                check_range(name, value)

    @property
    def _layouts(self) -> bool:
        """Whether `paint` has a layout for each prompt."""
        return any(not isinstance(one, Region) for one in self.paint)

    def each(self, name: str, prompts: int) -> list[Any]:
        """The value of an option for each image of so many prompts; ValueError for a list of another length."""
        value = getattr(self, name)
        per_prompt = self._layouts if name == "paint" else isinstance(value, tuple)
        if per_prompt and len(value) != prompts:
            raise ValueError(f"{name} has {len(value)} values for {prompts} prompts; give 1, or one for each")
        values = value if per_prompt else [value] * prompts
        return [one for one in values for _ in range(self.num_images_per_prompt)]

    def randomness(self, indices: Sequence[int]) -> Philox:
        """The random numbers of images by their index in the run."""
        if isinstance(self.seed, tuple):
            return Philox(self.seed, [self.first_index] * len(indices))
        assert isinstance(self.seed, int)
        return Philox(self.seed, indices)

    def plan(self, defaults: Sequence[Sampling]) -> list[Sampling]:
        """The settings of each stage: the model's own, except for what the options set.

        ValueError: the sampler is unknown, or an option has a number of values that is not that of the stages.
        """
        plan = list(defaults)
        for k, sampler in enumerate(self._of_stages("sampler", len(plan))):
            if isinstance(sampler, str):
                plan[k] = plan[k].with_sampler(sampler, k > 0)
        for name in RANGES:
            for k, value in enumerate(self._of_stages(name, len(plan))):
                if value is not None and (name != "guidance_scale" or _schedule(value) is None):
                    plan[k] = dataclasses.replace(plan[k], **{name: value})
        for k, sigmas in enumerate(self._of_stages("sigmas", len(plan))):
            if sigmas is not None:
                plan[k] = dataclasses.replace(plan[k], num_inference_steps=len(_grid(sigmas)) - 1)
        return plan

    def steering(self, stages: Sequence[Stage], batch: int, common: Steering) -> list[Steering]:
        """What steers each stage: `common`, and what the options set that is no plain setting.

        ValueError: the noise is of a stage that does not exist, or of another shape.
        """
        noise = dict(self.noise or {})
        if strange := noise.keys() - {stage.name for stage in stages}:
            raise ValueError(f"noise is for stages {', '.join(map(repr, sorted(strange)))}, which there are not")
        samplers, grids = self._of_stages("sampler", len(stages)), self._of_stages("sigmas", len(stages))
        schedules = self._of_stages("guidance_scale", len(stages))
        steering = []
        for stage, sampler, sigmas, schedule in zip(stages, samplers, grids, schedules, strict=True):
            given, shape = noise.get(stage.name), (batch, 3, stage.resolution, stage.resolution)
            if given is not None and not (given.shape == shape and given.isfinite().all()):
                raise ValueError(
                    f"the noise of stage {stage.name!r} must be finite, of shape {list(shape)}, got {list(given.shape)}"
                )
            chosen: dict[str, Any] = {
                "sampler": None if isinstance(sampler, str) else sampler,
                "sigmas": None if sigmas is None else torch.tensor(_grid(sigmas), dtype=torch.float64),
                "guidance": _schedule(schedule),
                "noise": given,
            }
            steering.append(dataclasses.replace(common, **chosen))
        return steering

    def entry(
        self, stages: Sequence[Stage], prompts: int, device: torch.device
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
            width = _listed(self.low_res)[0].width
            name = min(inputs, key=lambda stage: abs(inputs[stage] - width))
        if name not in inputs:
            raise ValueError(f"no super-resolution stage {name!r}; there are {', '.join(inputs)}")
        images = [Edit(image).at(inputs[name], 1, device).images for image in self.each("low_res", prompts)]
        return [stage.name for stage in stages].index(name), torch.cat(images)

    def described(self) -> dict[str, Any]:
        """The options that are in use, apart from the stages' sampling, as JSON values; images by their sha256."""
        names = (*INPUTS, "switch", "first_stage")
        return {name: _plain(value) for name in names if (value := getattr(self, name)) is not None and value != ()}

    def inputs(self) -> dict[str, bytes]:
        """The images, masks and noise in use as PNG files, see `ediffi.pipeline.inputs.stored`."""
        return inputs.stored(*(getattr(self, name) for name in INPUTS))

    def _values(self, name: str) -> list[Any]:
        # None is the model's own setting: no value.
        option = getattr(self, name)
        if option is None:
            return []
        if name not in PER_STAGE or not isinstance(option, Sequence) or isinstance(option, str):
            return [option]
        pairs = name == "guidance_scale" and option and all(map(is_pair, option))
        return [option] if pairs or (name == "sigmas" and option and all(map(is_number, option))) else list(option)

    def _of_stages(self, name: str, stages: int) -> list[Any]:
        """The value of an option in each stage, None where the option does not set it."""
        values = self._values(name)
        if len(values) > 1 and len(values) != stages:
            raise ValueError(f"{name} has {len(values)} values; give 1, or {stages}, one for each stage")
        if name == "sampler" and len(values) == 1:
            return values * stages
        return values + [None] * (stages - len(values))


def _native(value: Any) -> Any:
    """A number of NumPy, or several of them, as Python's own."""
    if isinstance(value, list | tuple):
        return tuple(map(_native, value))
    return value.item() if isinstance(value, np.generic) else value


def _listed(value: Any) -> Sequence[Any]:
    """The values of an option that has one, several or none."""
    return value if isinstance(value, tuple | list) else () if value is None else (value,)


def _schedule(value: Any) -> GuidanceSchedule | None:
    """A guidance scale that depends on sigma; None for a number and for none."""
    if callable(value):
        return GuidanceSchedule(value)
    pairs = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0 and all(map(is_pair, value))
    return GuidanceSchedule.of_pairs(value) if pairs else None


def _grid(sigmas: Any) -> list[float]:
    """The noise levels of a list, with the 0 at its end; an empty list for None. ValueError: they do not decrease."""
    if sigmas is None:
        return []
    if not isinstance(sigmas, Sequence) or not all(map(is_number, sigmas)):
        raise ValueError(f"sigmas must be decreasing noise levels, or a list of them per stage, got {sigmas!r}")
    grid = torch.tensor([*sigmas, *([] if sigmas and sigmas[-1] == 0 else [0.0])], dtype=torch.float64)
    return levels(grid)


def _plain(value: Any) -> Any:
    if isinstance(value, Image.Image):
        return {"size": list(value.size), "sha256": inputs.digest(value)}
    if isinstance(value, Tensor):
        return {"size": list(value.shape), "sha256": inputs.digest(value)}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
