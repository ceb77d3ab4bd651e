"""Images of one prompt as PNG files, with a progress bar: `ediffi sample`, `ediffi edit` and `ediffi upscale`."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ediffi.io import png
from ediffi.io.progress import Progress
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.registry.types import SamplerState

logger = logging.getLogger(__name__)


def sample_to_files(cascade: Cascade, prompt: str, paths: Sequence[Path], options: SamplingOptions) -> None:
    """Sample an image for each path, and save each with the settings that repeat it."""
    started = time.perf_counter()
    steps = {s.name: p.num_inference_steps for s, p in zip(cascade.stages, cascade.plan(options), strict=True)}
    with Progress(total=sum(steps.values()), unit="step") as bar:

        def progress(stage: str, state: SamplerState) -> None:
            if bar.n == 0:  # an upscaled image skips the stages before its own
                for skipped in list(steps)[: list(steps).index(stage)]:
                    del steps[skipped]
            steps[stage] = state.num_steps  # an edit with a strength below 1 does a part of the steps
            bar.total = sum(steps.values())
            bar.set_description_str(stage)
            bar.update()

        made = cascade.generate(prompt, replace(options, num_images_per_prompt=len(paths)), progress)
    for index, (path, image) in enumerate(zip(paths, made.images, strict=True)):
        png.save(image, path, {**made.settings, "index": index})
    stages = ", ".join(
        f"{name} {s['sampler']} {s['num_inference_steps']} steps ({s['nfe']} NFE) guidance {s['guidance_scale']:g}"
        for name, s in made.settings["stages"].items()
    )
    logger.info("%r, seed %s: %s; %.1f s", prompt, options.seed, stages, time.perf_counter() - started)
    for path in paths:
        logger.info("%s", path.resolve())
