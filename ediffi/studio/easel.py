"""The easel: what a visitor sees of a run while it goes, the picture and its stages, with the time that is left."""

import time
from collections.abc import Sequence

from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.stage import Sampling
from ediffi.studio.pace import StepTimes
from ediffi.studio.run import Event, Step, Waiting
from ediffi.studio.sheet import data_url, sheet
from ediffi.studio.spectrum import Spectrum


class Easel:
    """A run that is watched.

    Args:
        cascade: the model.
        plan: how its stages are sampled.
        pace: what is known of their time, and learns from this run.
        images: how many pictures are painted.
        notices: what of the order has no effect.
    """

    def __init__(
        self, cascade: Cascade, plan: Sequence[Sampling], pace: StepTimes, images: int = 1, notices: Sequence[str] = ()
    ) -> None:
        pairs = zip(cascade.stages, plan, strict=True)
        self.spectra = {stage.name: Spectrum(stage, sampling) for stage, sampling in pairs}
        self.pace, self.images, self.notices = pace, images, tuple(notices)
        self.waiting = 0
        self.seen: dict[str, Step] = {}
        self._last: tuple[Step, float] | None = None

    def show(self, event: Event) -> None:
        """Take in what happened."""
        if isinstance(event, Waiting):
            self.waiting = event.ahead
        elif isinstance(event, Step):
            now = time.perf_counter()
            if self._last is not None:
                self.pace.saw(self._last[0], event, now - self._last[1])
            self.waiting, self._last = 0, (event, now)
            self.seen[event.stage] = event

    @property
    def share(self) -> float:
        """How many of all steps are done, 0 to 1."""
        total = sum(len(spectrum.sigmas) for spectrum in self.spectra.values())
        return sum(step.step for step in self.seen.values()) / total

    def picture(self, sources: Sequence[str] = ()) -> str:
        """The sheet as HTML; while the run goes, with the latest estimate."""
        if self.waiting:
            told = f"waiting: {self.waiting} run{'s' * (self.waiting > 1)} before this one"
            return sheet(sources, told, share=0.0, notices=self.notices)
        if self._last is None:
            return sheet(sources, "reading the words …", share=0.0, notices=self.notices)
        step = self._last[0]
        estimate = [data_url(image) for image in step.images]
        told = f"{step.stage}: step {step.step} of {step.num_steps}, σ {step.sigma:.3g}"
        return sheet(estimate, told, detail=self._time(step), share=self.share, notices=self.notices)

    def stages(self, over: bool = False) -> str:
        """The stages' cards as HTML.

        Args:
            over: whether the run has ended.
        """
        running = self._last[0].stage if self._last is not None and not over else None
        cards = []
        for name, spectrum in self.spectra.items():
            step = self.seen.get(name)
            state = "running" if name == running else "idle" if step is None else "done"
            cards.append(spectrum.card(step, state))
        return f'<div class="stages">{"".join(cards)}</div>'

    def _time(self, step: Step) -> str:
        """What is left of the run, or of the stage while later ones are not known."""
        names = list(self.spectra)
        later = names[names.index(step.stage) + 1 :]
        here = {step.stage: step.num_steps - step.step}
        whole = self.pace.left({**here, **{name: len(self.spectra[name].sigmas) for name in later}}, self.images)
        if whole is not None:
            return f"{_seconds(whole)} left"
        stage = self.pace.left(here, self.images)
        return "" if stage is None else f"{_seconds(stage)} left in {step.stage}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
