"""Images of one prompt as PNG files, with a progress bar: `ediffi sample`, `ediffi edit` and `ediffi upscale`."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ediffi.io import png
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.step_bar import StepBar

logger = logging.getLogger(__name__)


def sample_to_files(cascade: Cascade, prompt: str, paths: Sequence[Path], options: SamplingOptions) -> None:
    """Sample an image for each path, and save each with the settings that repeat it."""
    started = time.perf_counter()
    with StepBar(cascade.stages, cascade.plan(options)) as bar:
        made = cascade.generate(prompt, replace(options, num_images_per_prompt=len(paths)), bar)
    inputs = made.inputs()
    for index, (path, image) in enumerate(zip(paths, made.images, strict=True)):
        png.save(image, path, {**made.settings, "index": index}, inputs)
    stages = [_stage_line(name, made.settings["stages"][name], taken) for name, taken in bar.taken.items()]
    ran = ", ".join(stages) or "no steps"
    logger.info("%r, seed %s: %s; %.1f s", prompt, options.seed, ran, time.perf_counter() - started)
    for path in paths:
        logger.info("%s", path.resolve())


def _stage_line(name: str, settings: Mapping[str, Any], taken: int) -> str:
    """What a stage did; an edit with a strength below 1 takes a part of the steps."""
    planned = settings["num_inference_steps"]
    steps = f"{planned} steps ({settings['nfe']} NFE)" if taken == planned else f"{taken} of {planned} steps"
    return f"{name} {settings['sampler']} {steps} guidance {settings['guidance_scale']:g}"
