"""A cascade as the image generator of many numbered prompts, of `ediffi sample --prompts` and of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ediffi.diffusion.layout import Region, polygon
from ediffi.evaluation.datasets.captioned import Controls
from ediffi.hub.finding import CONFIG
from ediffi.io import files, png
from ediffi.io.images import to_images
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import locate
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.stage import Steering
from ediffi.pipeline.style import Style
from ediffi.registry.types import Conditioning


class EncodedPrompts:
    """What the encoders make of batches of prompts, up to `limit` bytes of it, so that each batch is encoded once."""

    def __init__(self, cascade: Cascade, options: SamplingOptions, limit: int = 4 << 30) -> None:
        self.cascade, self.options, self.room = cascade, options, limit
        self._known: dict[tuple[str, ...], Conditioning] = {}

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of a batch, on the CPU."""
        if (known := self._known.get(tuple(prompts))) is not None:
            return known
        sizes: list[int] = []
        cond = self.cascade.encode(prompts, self.options.style, self.options.paint).to("cpu")
        cond.apply(lambda tensor: sizes.append(tensor.nbytes) or tensor)  # type: ignore[func-returns-value]
        if sum(sizes) <= self.room:
            self.room -= sum(sizes)
            self._known[tuple(prompts)] = cond
        return cond


class CascadeGenerator:
    """A cascade as an image generator: image k is a function of (seed, k), its prompt, the settings and its batch.

    `settings` are all that the images depend on; its "guidance_scale" is the base stage's, "nfe" the sum of all stages.
    The number of CPU threads is one of them: it changes the last bits, since sums are split among threads. So it does
    not depend on how many processes share the machine: one by default, and more processes for more cores. `controls`
    are those of each prompt of the run, if they have any; `style_scale` is of all of their style images.
    """

    def __init__(
        self,
        cascade: Cascade,
        options: SamplingOptions = SamplingOptions(),  # noqa: B008  (frozen)
        identity: Mapping[str, Any] | None = None,
        threads: int = 1,
        encoded: EncodedPrompts | None = None,
        controls: Sequence[Controls] = (),
        style_scale: float = 1.0,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.cascade, self.options, self.threads, self.encoded = cascade, options, threads, encoded
        self.controls, self.style_scale = controls, style_scale
        plan = cascade.plan(options)
        self.settings: Mapping[str, Any] = {
            "model": cascade.name,
            "stages": {stage.name: asdict(s) for stage, s in zip(cascade.stages, plan, strict=True)},
            "seed": options.seed,
            **({} if options.negative_prompt is None else {"negative_prompt": options.negative_prompt}),
            **({} if style_scale == 1 else {"style_scale": style_scale}),
            **options.described(),
            **cascade.precision,
            **(identity or {}),
            "guidance_scale": plan[0].guidance_scale,
            "nfe": sum(sampling.nfe for sampling in plan),
            "threads": threads,
        }

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """An image for each prompt, with the settings that `ediffi inspect` shows."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            if any(map(any, self.controls)):
                return self._controlled(prompts, first_index)
            cond = None if self.encoded is None else self.encoded(prompts)
            made = self.cascade.generate(prompts, replace(self.options, first_index=first_index), cond=cond)
        finally:
            torch.set_num_threads(before)
        return [
            png.attach_settings(image, {**made.settings, "prompt": prompt, "first_index": index, "index": 0})
            for index, (prompt, image) in enumerate(zip(prompts, made.images, strict=True), start=first_index)
        ]

    def _controlled(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """An image for each prompt with its own controls; those with a style image are a batch of their own."""
        plan, images = self.cascade.plan(self.options), dict[int, Image.Image]()
        for with_style in (False, True):
            numbers = [n for n in range(first_index, first_index + len(prompts)) if self._has_style(n) == with_style]
            if numbers:
                conds = [self._encoded(prompts[number - first_index], self.controls[number]) for number in numbers]
                cond, randomness = Conditioning.cat(conds), self.options.randomness(numbers)
                stages = self.cascade.sample(cond, randomness, plan, steering=Steering(style_scale=self.style_scale))
                images |= dict(zip(numbers, to_images(stages[self.cascade.stages[-1].name]), strict=True))
        known = {**self.settings, "index": 0}
        return [
            png.attach_settings(images[number], {**known, "prompt": prompt, "first_index": number})
            for number, prompt in enumerate(prompts, start=first_index)
        ]

    def _has_style(self, number: int) -> bool:
        return self.controls[number].style is not None

    def _encoded(self, prompt: str, controls: Controls) -> Conditioning:
        """A prompt with its controls."""
        style = None if controls.style is None else Style(controls.style)
        regions = [Region(phrase, polygon(corners(box))) for phrase, box in controls.areas]
        return self.cascade.encode([prompt], style, regions)


def identity(model: str | Path) -> dict[str, str]:
    """The sha256 of a model's `config.json`, which has the sha256 of all its weights."""
    return {"model_sha256": files.sha256(locate(model) / CONFIG)}


def corners(box: Sequence[float]) -> list[list[float]]:
    """The corners of a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]
