"""A call of a cascade: prompts and options, made into what the stages need, an image a row."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ediffi.diffusion.editing import Edit
from ediffi.pipeline.conditioning import rows
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.stage import Sampling, Stage, Steering
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning

logger = logging.getLogger(__name__)


def read_prompts(prompt: str | Sequence[str] | None, cond: Conditioning | None) -> list[str]:
    """The prompts of a call, empty ones where only their embeddings are known; ValueError: there are none."""
    if prompt is None:
        if cond is None:
            raise ValueError("give a prompt, or cond, its embeddings")
        return [""] * cond.batch_size
    if not isinstance(prompt, str | Iterable):
        raise ValueError(f"prompt must be a text, or a list of them, got {prompt!r}")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise ValueError("prompt is an empty list; give at least one")
    return prompts


@dataclass(frozen=True)
class Generation:
    """Prompts and options; `encode` as `Cascade.encode`."""

    prompts: Sequence[str]
    options: SamplingOptions
    stages: Sequence[Stage]
    encode: Callable[..., Conditioning]

    @property
    def number(self) -> int:
        """How many images there will be."""
        return len(self.prompts) * self.options.num_images_per_prompt

    @property
    def indices(self) -> range:
        """The index of each image in its run."""
        return range(self.options.first_index, self.options.first_index + self.number)

    def each(self, name: str) -> list[Any]:
        """The value of an option for each image."""
        return self.options.each(name, len(self.prompts))

    def check_paint(self, plan: Sequence[Sampling]) -> None:
        """ValueError if there are painted regions, and nothing that they change."""
        if any(self.each("paint")) and not any(sampling.paint_weight for sampling in plan):
            raise ValueError("paint has no effect, since paint_weight is 0 in every stage; give one above 0")

    def texts(self, with_prompts: bool) -> list[str]:
        """The texts that encoders will read; the prompts are none of them where their embeddings are known."""
        switches = [switch.prompt for switch in self.each("switch") if switch is not None]
        return [
            text for text in [*(self.prompts if with_prompts else ()), *self.each("negative_prompt"), *switches] if text
        ]

    def cond(self) -> Conditioning:
        """The conditioning of each image."""
        texts = [prompt for prompt in self.prompts for _ in range(self.options.num_images_per_prompt)]
        return self.encode(texts, self.each("style"), self.each("paint"))

    def steering(self, negative_cond: Conditioning | None) -> list[Steering]:
        """What steers each stage; ValueError if the options contradict each other."""
        styles, switches = self.each("style"), self.each("switch")
        scales = {style.scale for style in styles if style is not None} or {1.0}
        if len(scales) > 1:
            raise ValueError(f"the styles of all prompts must have one scale, got {sorted(scales)}")
        switched = [switch for switch in switches if switch is not None]
        after = self.encode([switch.prompt for switch in switched], styles) if switched else None
        common = Steering(self._negative(negative_cond), scales.pop(), after, switched[0].at if switched else 1.0)
        return self.options.steering(self.stages, self.number, common)

    def _negative(self, given: Conditioning | None) -> Conditioning | None:
        """What guidance moves away from: dropped, as the null condition, where a prompt has none."""
        texts = self.each("negative_prompt")
        if all(text is None for text in texts):
            return None if given is None else rows(given, len(self.prompts), self.number).to(self._device)
        if given is not None:
            raise ValueError("negative_prompt and negative_cond say the same: give one of them")
        negative = self.encode([text or self._some_text for text in texts])
        without = torch.tensor([text is None for text in texts])
        for source in negative.sources if without.any() else ():
            negative = negative.drop(source, without.to(self._device))
        return negative

    def entry(self) -> tuple[int, Tensor | None]:
        """The first stage to run, and the images that it enlarges; an image that is made smaller for it is told."""
        index, low_res = self.options.entry(self.stages, len(self.prompts), self._device)
        largest = max((image.width for image in self.each("low_res") if image is not None), default=0)
        if low_res is not None and largest > low_res.shape[-1]:
            text = "the image is %dx%d; %s enlarges images of %dx%d, so it is made smaller first"
            logger.warning(text, largest, largest, self.stages[index].name, *low_res.shape[-2:])
        return index, low_res

    def edits(self) -> Edit | Sequence[Edit] | None:
        """The image that all start from, or one for each; an image that comes back smaller is told in the log."""
        largest = self.stages[-1].resolution
        sides = {edit.image.width for edit in self.each("edit") if edit is not None}
        if max(sides, default=0) > largest:
            size = f"{max(sides)}x{max(sides)}"
            logger.warning("the image is %s; the model makes images of %dx%d", size, largest, largest)
        return self.each("edit") if isinstance(self.options.edit, tuple) else self.options.edit

    def noise(self, stages: Sequence[str], randomness: Philox) -> Mapping[str, Tensor]:
        """The noise that stages start from, by their names."""
        given = self.options.noise or {}
        ran = [stage for stage in self.stages if stage.name in stages]
        return {s.name: given[s.name] if s.name in given else s.start_noise(randomness) for s in ran}

    def settings(
        self, plan: Sequence[Sampling], steering: Sequence[Steering], one: bool, precision: Mapping[str, Any]
    ) -> dict[str, Any]:
        """JSON values that repeat the images; `one` if the prompt was no list."""
        options, known = self.options, any(self.prompts)
        stages = {s.name: c.described(p) for s, c, p in zip(self.stages, steering, plan, strict=True)}
        return {
            "prompt": None if not known else self.prompts[0] if one else list(self.prompts),
            "num_images_per_prompt": options.num_images_per_prompt,
            "first_index": options.first_index,
            "seed": options.seed,
            "negative_prompt": options.negative_prompt,
            **precision,
            "stages": stages,
            **options.described(),
        }

    @cached_property
    def _some_text(self) -> str:
        # Stands where a prompt has no negative one, and is dropped; a text that the encoders read anyway.
        return next(text for text in self.each("negative_prompt") if text is not None)

    @property
    def _device(self) -> torch.device:
        return next(self.stages[0].denoiser.parameters()).device
