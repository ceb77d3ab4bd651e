"""The progress of a job on the page: the latest estimate, the time left, and each stage with its noise and experts."""

import html
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ediffi.diffusion.editing import steps_left
from ediffi.diffusion.experts import expert_tree
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.studio.jobs import JobEvent, StepDone, Waiting
from ediffi.studio.views import data_url, image_panel

DECAY = 0.7
"""Weight of the old estimate in the running mean of a step's time."""
NUM_COLOURS = 6
"""Colours of experts in the style sheet."""


@dataclass(frozen=True)
class ExpertBand:
    """A part of the axis that one expert owns. An expert may own several."""

    index: int  # of the expert
    label: str  # its noise interval
    left: float  # 0 is the noisiest step
    right: float  # 1 is the cleanest step


class NoiseChart:
    """The noise levels of a stage on a logarithmic axis, from the noisiest step to the cleanest.

    `strength` is the share of the steps that run, from the cleanest: of an edit, or 0 for a stage that does not run.
    """

    def __init__(self, stage: Stage, sampling: Sampling, strength: float = 1.0) -> None:
        self.stage = stage
        self.sigmas: list[float] = sampling.sigmas()[:-1].tolist()
        self.num_steps = steps_left(len(self.sigmas), strength)
        self.tree = expert_tree(stage.denoiser)
        bands = [ExpertBand(0, "", 0.0, 1.0)]
        if self.tree is not None:
            bands = [
                ExpertBand(index, str(expert.interval), self.position(high), self.position(low))
                for index, expert in enumerate(self.tree.experts)
                for low, high in self.tree.noise.bounds(expert.interval)
            ]
        self.bands = sorted((band for band in bands if band.left < band.right), key=lambda band: band.left)

    def position(self, sigma: float) -> float:
        """The place of a noise level on the axis, 0 to 1."""
        if sigma <= 0:
            return 1.0
        high, low = math.log(self.sigmas[0]), math.log(self.sigmas[-1])
        return min(max((high - math.log(sigma)) / max(high - low, 1e-6), 0.0), 1.0)

    def expert_at(self, sigma: float) -> int:
        """Index of the expert that runs at a noise level."""
        return 0 if self.tree is None else int(self.tree.route(torch.tensor([sigma]))[0])

    def card(self, step: StepDone | None, state: str) -> str:
        """The card as HTML, with the last step; `state` is "idle", "running" or "done"."""
        current = step.sigma if step is not None and state == "running" else None
        running = None if current is None else self.expert_at(current)
        label = next((band.label for band in self.bands if band.index == running), "")
        count = len({band.index for band in self.bands})
        expert = f"expert {label}" if label and count > 1 else f"{count} expert{'s' * (count > 1)}"
        text = f"{self.num_steps} step{'s' * (self.num_steps > 1)}" if self.num_steps else "does not run"
        text = text if step is None else f"step {step.step} of {step.num_steps}"
        thumb = f'<img src="{data_url(step.images[0])}" alt="">' if step is not None else ""
        return (
            f'<div class="stage {state}"><div class="thumb">{thumb}</div><div class="about">'
            f"<div class=title><b>{html.escape(self.stage.name)}</b><span>{self.stage.resolution}²</span>"
            f"<em>{text}</em></div>"
            f'<div class="band">{self._axis(running, current)}</div>'
            f"<div class=ends><span>σ {self.sigmas[0]:.3g}</span><span>{html.escape(expert)}</span>"
            f"<span>{self.sigmas[-1]:.2g}</span></div></div></div>"
        )

    def _axis(self, running: int | None, current: float | None) -> str:
        bands = [
            f'<i class="expert e{band.index % NUM_COLOURS}{" lit" * (band.index == running)}" '
            f'title="expert {band.label}" '
            f'style="left:{100 * band.left:.2f}%;width:{100 * (band.right - band.left):.2f}%"></i>'
            for band in self.bands
        ]
        marks = [("u", sigma) for sigma in self.sigmas] + ([] if current is None else [("s", current)])
        ticks = [f'<{tag} style="left:{100 * self.position(sigma):.2f}%"></{tag}>' for tag, sigma in marks]
        return "".join(bands + ticks)


class StepTimes:
    """Seconds that a step takes for one image, by stage: a running mean over all jobs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def update(self, before: StepDone, after: StepDone, seconds: float) -> None:
        """Learn from two events of one stage that lie `seconds` apart."""
        steps = (after.step - before.step) * len(after.images)
        if before.stage == after.stage and steps > 0:
            known = self.seconds.get(after.stage, seconds / steps)
            self.seconds[after.stage] = DECAY * known + (1 - DECAY) * seconds / steps

    def estimate(self, steps: Mapping[str, int], num_images: int) -> float | None:
        """Seconds that this many steps of each stage will take; None if the time of a stage is not known yet."""
        if any(count and name not in self.seconds for name, count in steps.items()):
            return None
        return num_images * sum(count * self.seconds[name] for name, count in steps.items() if count)


class JobProgress:
    """What the page shows of a job that samples the stages of `cascade` by `plan`. The job's steps update `times`."""

    def __init__(
        self,
        cascade: Cascade,
        plan: Sequence[Sampling],
        times: StepTimes,
        num_images: int = 1,
        notices: Sequence[str] = (),
        strengths: Sequence[float] = (),
    ) -> None:
        rows = zip(cascade.stages, plan, strengths or [1.0] * len(plan), strict=True)
        self.charts = {stage.name: NoiseChart(stage, sampling, strength) for stage, sampling, strength in rows}
        self.times, self.num_images, self.notices = times, num_images, tuple(notices)
        self.ahead = 0
        self.seen: dict[str, StepDone] = {}
        self._last: StepDone | None = None
        self._last_time = 0.0

    def update(self, event: JobEvent) -> None:
        """Take in an event of the job."""
        if isinstance(event, Waiting):
            self.ahead = event.ahead
        elif isinstance(event, StepDone):
            now = time.perf_counter()
            if self._last is not None:
                self.times.update(self._last, event, now - self._last_time)
            self.ahead, self._last, self._last_time = 0, event, now
            self.seen[event.stage] = event

    @property
    def share(self) -> float:
        """The share of all steps that are done, 0 to 1."""
        total = sum(chart.num_steps for chart in self.charts.values())
        return sum(step.step for step in self.seen.values()) / max(total, 1)

    def panel(self, sources: Sequence[str] = ()) -> str:
        """The image panel as HTML, with the latest estimate; with `sources`, addresses of images, before the first."""
        step = self._last
        if self.ahead or step is None:
            waiting = f"waiting for {self.ahead} earlier job{'s' * (self.ahead > 1)}"
            text = waiting if self.ahead else "reading the prompt …"
            return image_panel(sources, text, share=0.0, notices=self.notices)
        text = f"{step.stage}: step {step.step} of {step.num_steps}, σ {step.sigma:.3g}"
        images = [data_url(image) for image in step.images]
        return image_panel(images, text, detail=self._time_left(step), share=self.share, notices=self.notices)

    def stages(self, over: bool = False) -> str:
        """The cards of the stages as HTML; `over` says that the job has ended."""
        running = self._last.stage if self._last is not None and not over else None
        cards = []
        for name, chart in self.charts.items():
            step = self.seen.get(name)
            cards.append(chart.card(step, "running" if name == running else "idle" if step is None else "done"))
        return f'<div class="stages">{"".join(cards)}</div>'

    def _time_left(self, step: StepDone) -> str:
        """The time left of the job, or of the current stage while the step time of a later stage is not known."""
        here, names = {step.stage: step.num_steps - step.step}, list(self.charts)
        later = {name: self.charts[name].num_steps for name in names[names.index(step.stage) + 1 :]}
        if (seconds := self.times.estimate(here | later, self.num_images)) is not None:
            return f"{_duration(seconds)} left"
        seconds = self.times.estimate(here, self.num_images)
        return "" if seconds is None else f"{_duration(seconds)} left in {step.stage}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
