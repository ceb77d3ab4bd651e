"""A cascade at work on one prompt: says what it will ignore, paints under a bar, saves, reports."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ediffi.io import png
from ediffi.pipeline.cascade import Cascade, Images, Progress
from ediffi.pipeline.checkpoint import Residency
from ediffi.pipeline.options import SamplingOptions
from ediffi.registry.types import SamplerState


class Painter:
    """A cascade at the command line.

    Args:
        model: the shipped "toybox", a folder, or ORG/REPO of the Hub.
        device: where its networks stand.
        expert_residency: see `Cascade.from_pretrained`.
    """

    def __init__(self, model: str, device: str = "cpu", expert_residency: Residency = "resident") -> None:
        self.started = time.perf_counter()
        self.cascade = Cascade.from_pretrained(model, device, expert_residency)

    def notices(self, prompt: str) -> list[str]:
        """What of a prompt the model will not read, a sentence each."""
        notices = []
        if ignored := self.cascade.unknown_words(prompt):
            notices.append(f"ignored, not in the vocabulary of {self.cascade.name}: {', '.join(ignored)}")
        for source, rest in self.cascade.truncated_text(prompt).items():
            notices.append(f"too long for {source}, which does not read: {rest!r}")
        return notices

    def paint(self, prompt: str, paths: Sequence[Path], options: SamplingOptions) -> None:
        """Sample an image for each path, save them, and report."""
        for notice in self.notices(prompt):
            print(notice, file=sys.stderr)
        with self._bar(options) as progress:
            images = self.cascade.generate(prompt, replace(options, num_images_per_prompt=len(paths)), progress)
        save(images, paths)
        self._report(prompt, paths, images.settings)

    @contextmanager
    def _bar(self, options: SamplingOptions) -> Iterator[Progress]:
        """A bar over the steps of all stages; a stage that is skipped, or done in part, counts for what it does."""
        plan = self.cascade.plan(options)
        steps = {stage.name: s.num_inference_steps for stage, s in zip(self.cascade.stages, plan, strict=True)}
        begun: set[str] = set()
        with tqdm(total=sum(steps.values()), unit="step", disable=None) as bar:

            def progress(stage: str, state: SamplerState) -> None:
                if not begun:
                    for earlier in list(steps)[: list(steps).index(stage)]:
                        del steps[earlier]
                begun.add(stage)
                steps[stage] = state.num_steps
                bar.total = sum(steps.values())
                bar.set_description(stage)
                bar.update()

            yield progress

    def _report(self, prompt: str, paths: Sequence[Path], settings: Mapping[str, Any]) -> None:
        seconds = time.perf_counter() - self.started
        print(f"{prompt!r}, seed {settings['seed']}: {described(settings['stages'])}; {seconds:.1f} s")
        for path in paths:
            print(path.resolve())


def save(images: Images, paths: Sequence[Path]) -> None:
    """Save pictures, each with the settings of all and its own index."""
    for index, (path, image) in enumerate(zip(paths, images.images, strict=True)):
        png.save(image, path, {**images.settings, "index": index})


def described(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """How the stages were sampled, in words."""
    return ", ".join(
        f"{name} {s['sampler']} {s['num_inference_steps']} steps ({s['nfe']} NFE) guidance {s['guidance_scale']:g}"
        for name, s in stages.items()
    )
