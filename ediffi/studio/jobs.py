"""Jobs that share one model: one runs at a time, in order of arrival; each reports its steps and can be stopped."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ediffi.io.images import to_images
from ediffi.pipeline.sampling import Progress
from ediffi.registry.types import SamplerState


@dataclass(frozen=True)
class Waiting:
    """The job waits for `ahead` earlier jobs."""

    ahead: int


@dataclass(frozen=True)
class StepDone:
    """A sampling step of a stage is done."""

    stage: str
    step: int  # from 1
    num_steps: int  # of the stage
    sigma: float  # noise level that the step started from
    images: tuple[Image.Image, ...]  # the denoised estimates


@dataclass(frozen=True)
class Finished:
    """The job is done; `result` is what its function returned."""

    result: Any


JobEvent = Waiting | StepDone | Finished
Work = Callable[[Progress], Any]
"""The function of a job. It calls its argument after every sampling step."""


class Stopped(Exception):
    """The user stopped the job, or closed the page."""


class _Job:
    def __init__(self, session: str) -> None:
        self.session = session
        self.stopped = threading.Event()
        self.events: queue.Queue[StepDone | Finished | BaseException] = queue.Queue()

    def progress(self, stage: str, state: SamplerState) -> None:
        if self.stopped.is_set():
            raise Stopped
        images = tuple(to_images(state.denoised.detach()))
        self.events.put(StepDone(stage, state.step + 1, state.num_steps, state.sigma, images))

    def next_event(self) -> StepDone | Finished | BaseException:
        """The next event, without steps that a newer event follows, except the last step of a stage."""
        event = self.events.get()
        while isinstance(event, StepDone) and event.step < event.num_steps:
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                break
        return event


class JobQueue:
    """The waiting jobs of all sessions; the first one runs."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()

    def run(self, session: str, work: Work) -> Iterator[JobEvent]:
        """Wait for the model, call `work` in a thread, yield the events, and raise `Stopped` or what `work` raises.

        Closing the iterator stops the job.
        """
        job = _Job(session)
        with self._changed:
            self._jobs.append(job)
        try:
            yield from self._wait(job)
        except BaseException:
            self._remove(job)
            raise
        # The thread removes the job when the model is idle again, which may be after the reader of the events has left.
        threading.Thread(target=self._work, args=(job, work), name="studio-job", daemon=True).start()
        try:
            while True:
                event = job.next_event()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            job.stopped.set()

    def stop(self, session: str | None = None) -> None:
        """Stop the jobs of a session, or all jobs: at the next step, or while they wait."""
        with self._changed:
            for job in self._jobs:
                if session in (None, job.session):
                    job.stopped.set()
            self._changed.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait at most `seconds` until there is no job; whether there is none."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, seconds)

    def _wait(self, job: _Job) -> Iterator[Waiting]:
        ahead = -1
        while ahead != 0:
            with self._changed:
                while not job.stopped.is_set() and self._jobs.index(job) == ahead:
                    self._changed.wait()
                ahead = self._jobs.index(job)
            if job.stopped.is_set():
                raise Stopped
            if ahead:
                yield Waiting(ahead)

    def _work(self, job: _Job, work: Work) -> None:
        try:
            job.events.put(Finished(work(job.progress)))
        except BaseException as error:  # raised again by the reader of the events
            job.events.put(error)
        finally:
            self._remove(job)

    def _remove(self, job: _Job) -> None:
        with self._changed:
            self._jobs.remove(job)
            self._changed.notify_all()
