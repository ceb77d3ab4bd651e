"""Images of one prompt as PNG files, with a progress bar: `ediffi sample`, `ediffi edit` and `ediffi upscale`."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ediffi.io import png
from ediffi.pipeline.cascade import Cascade, Progress
from ediffi.pipeline.options import SamplingOptions
from ediffi.registry.types import SamplerState

logger = logging.getLogger(__name__)


def sample_to_files(cascade: Cascade, prompt: str, paths: Sequence[Path], options: SamplingOptions) -> None:
    """Sample an image for each path, and save each with the settings that repeat it."""
    started = time.perf_counter()
    for notice in cascade.prompt_notices(prompt):
        logger.warning("%s", notice)
    with _bar(cascade, options) as progress:
        made = cascade.generate(prompt, replace(options, num_images_per_prompt=len(paths)), progress)
    for index, (path, image) in enumerate(zip(paths, made.images, strict=True)):
        png.save(image, path, {**made.settings, "index": index})
    stages, seconds = described(made.settings["stages"]), time.perf_counter() - started
    logger.info("%r, seed %s: %s; %.1f s", prompt, options.seed, stages, seconds)
    for path in paths:
        logger.info("%s", path.resolve())


def described(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The sampling of each stage in words."""
    return ", ".join(
        f"{name} {s['sampler']} {s['num_inference_steps']} steps ({s['nfe']} NFE) guidance {s['guidance_scale']:g}"
        for name, s in stages.items()
    )


@contextmanager
def _bar(cascade: Cascade, options: SamplingOptions) -> Iterator[Progress]:
    """A bar over the steps of all stages; a stage that is skipped or done in part counts the steps that it does."""
    plan = cascade.plan(options)
    steps = {stage.name: s.num_inference_steps for stage, s in zip(cascade.stages, plan, strict=True)}
    with tqdm(total=sum(steps.values()), unit="step", disable=None) as bar:

        def progress(stage: str, state: SamplerState) -> None:
            if bar.n == 0:
                for skipped in list(steps)[: list(steps).index(stage)]:
                    del steps[skipped]
            steps[stage] = state.num_steps
            bar.total = sum(steps.values())
            bar.set_description(stage)
            bar.update()

        yield progress
