"""A cascade as an image generator for `ediffi.evaluation`: settings, and a call with prompts and a first index."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ediffi.hub.finding import CONFIG
from ediffi.io import files, png
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import locate
from ediffi.pipeline.options import SamplingOptions


class CascadeGenerator:
    """Images of a cascade by index: image k is a function of (seed, k), its prompt, the settings and its batch.

    The number of CPU threads changes the last bits, since sums are split among them. So it is a setting, and does not
    depend on how many processes share the machine: one by default, and more processes for more cores.

    Args:
        cascade: the model.
        options: the same for all images; `num_images_per_prompt` must be 1.
        identity: JSON values that identify the model, beyond its name.
        threads: of the CPU, while images are sampled.

    Raises:
        ValueError: `threads` is below 1, or the sampler is unknown.
    """

    def __init__(
        self,
        cascade: Cascade,
        options: SamplingOptions = SamplingOptions(),  # noqa: B008  (frozen)
        identity: Mapping[str, Any] | None = None,
        threads: int = 1,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.cascade, self.options, self.threads = cascade, options, threads
        plan = cascade.plan(options)
        self.settings: Mapping[str, Any] = {
            **cascade.request(options),
            **(identity or {}),
            "guidance_scale": plan[0].guidance_scale,
            "nfe": sum(sampling.nfe for sampling in plan),
            "threads": threads,
        }
        """What the images depend on; "guidance_scale" is the base stage's, "nfe" is the sum over all stages."""

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """An image for each prompt, with the settings that `ediffi inspect` shows."""
        with _threads(self.threads):
            made = self.cascade.generate(prompts, dataclasses.replace(self.options, first_index=first_index))
        return [
            png.attach_settings(image, {**made.settings, "prompt": prompt, "first_index": index, "index": 0})
            for index, (prompt, image) in enumerate(zip(prompts, made.images, strict=True), start=first_index)
        ]


def identity(model: str | Path) -> dict[str, str]:
    """The sha256 of a model's `config.json`, which has the sha256 of all its weights.

    Raises:
        FileNotFoundError: there is no such model.
    """
    return {"model_sha256": files.sha256(locate(model) / CONFIG)}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
