"""Images of one prompt as PNG files, with a progress bar: `ediffi sample`, `ediffi edit` and `ediffi upscale`."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
    stages = ", ".join(
        f"{name} {s['sampler']} {s['num_inference_steps']} steps ({s['nfe']} NFE) guidance {s['guidance_scale']:g}"
        for name, s in made.settings["stages"].items()
    )
    logger.info("%r, seed %s: %s; %.1f s", prompt, options.seed, stages, time.perf_counter() - started)
    for path in paths:
        logger.info("%s", path.resolve())
