"""The progress of a job on the page: the latest estimate of the images, the stages, and the time left."""

import time
from collections.abc import Mapping, Sequence

from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.stage import Sampling
from ediffi.studio.jobs import JobEvent, StepDone, Waiting
from ediffi.studio.noise_chart import NoiseChart
from ediffi.studio.views import data_url, image_panel

DECAY = 0.7
"""Weight of the old estimate in the running mean of a step's time."""


class StepTimes:
    """Seconds that a step takes for one image, by stage: a running mean over all jobs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def update(self, before: StepDone, after: StepDone, seconds: float) -> None:
        """Learn from two events that lie `seconds` apart; has no effect if they are of two stages."""
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
    ) -> None:
        pairs = zip(cascade.stages, plan, strict=True)
        self.charts = {stage.name: NoiseChart(stage, sampling) for stage, sampling in pairs}
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
        total = sum(len(chart.sigmas) for chart in self.charts.values())
        return sum(step.step for step in self.seen.values()) / total

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
        names = list(self.charts)
        later = names[names.index(step.stage) + 1 :]
        here = {step.stage: step.num_steps - step.step}
        steps = {**here, **{name: len(self.charts[name].sigmas) for name in later}}
        if (seconds := self.times.estimate(steps, self.num_images)) is not None:
            return f"{_duration(seconds)} left"
        seconds = self.times.estimate(here, self.num_images)
        return "" if seconds is None else f"{_duration(seconds)} left in {step.stage}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
