"""A progress bar over the steps of all stages."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ediffi.io.progress import Progress
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.registry.types import SamplerState


class StepBar:
    """A bar for `Cascade.generate`, which calls it after every step; a context that closes it."""

    def __init__(self, stages: Sequence[Stage], plan: Sequence[Sampling], disable: bool = False) -> None:
        self.steps = {s.name: p.num_inference_steps for s, p in zip(stages, plan, strict=True)}
        self.taken: Counter[str] = Counter()  # steps of each stage that ran
        self.bar = Progress(total=sum(self.steps.values()), unit="step", disable=disable)

    def __call__(self, stage: str, state: SamplerState) -> None:
        """Count a step of a stage."""
        if self.bar.n == 0:  # an upscaled image skips the stages before its own
            for skipped in list(self.steps)[: list(self.steps).index(stage)]:
                del self.steps[skipped]
        self.taken[stage] += 1
        self.steps[stage] = state.num_steps  # an edit with a strength below 1 does a part of the steps
        self.bar.total = sum(self.steps.values())
        self.bar.set_description_str(stage)
        self.bar.update()

    def __enter__(self) -> "StepBar":
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()
