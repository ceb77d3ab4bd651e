"""Runs of a model that several visitors share: one at a time, watched while they go, and stopped at any step."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ediffi.io.images import to_images
from ediffi.pipeline.cascade import Progress
from ediffi.registry.types import SamplerState

POLL = 0.25
"""Seconds between looks at whether a run that waits was stopped."""


@dataclass(frozen=True)
class Waiting:
    """The run waits, with `ahead` runs before it."""

    ahead: int


@dataclass(frozen=True)
class Step:
    """A step is done.

    Attributes:
        stage: its name.
        step: from 1.
        num_steps: of the stage.
        sigma: noise level the step started from.
        images: the pictures, as the stage sees them now.
    """

    stage: str
    step: int
    num_steps: int
    sigma: float
    images: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Finished:
    """The work is done; `result` is what it returned."""

    result: Any


Event = Waiting | Step | Finished
Work = Callable[[Progress], Any]
"""What a run does: a function that calls its argument after every step."""


class Stopped(Exception):
    """The visitor stopped the run, or left."""


class Line:
    """First come, first served: who stands at the head may use the model."""

    def __init__(self) -> None:
        self._places: deque[object] = deque()
        self._moved = threading.Condition()

    def join(self, who: object) -> None:
        """Stand at the end."""
        with self._moved:
            self._places.append(who)

    def leave(self, who: object) -> None:
        """Make room; nothing happens if `who` is not there."""
        with self._moved:
            if who in self._places:
                self._places.remove(who)
                self._moved.notify_all()

    def ahead(self, who: object) -> int:
        """How many stand before `who`."""
        with self._moved:
            return self._places.index(who)

    def empty(self, seconds: float) -> bool:
        """Wait until nobody stands here, but no longer than this; returns whether nobody does."""
        with self._moved:
            return self._moved.wait_for(lambda: not self._places, seconds)

    def wait(self, seconds: float) -> None:
        """Until somebody leaves, or so long."""
        with self._moved:
            self._moved.wait(seconds)


class Run:
    """One use of the model.

    Args:
        work: the use.
        line: of the model.
    """

    def __init__(self, work: Work, line: Line) -> None:
        self.work, self.line = work, line
        self._stop = threading.Event()
        self._events: queue.Queue[Step | Finished | BaseException] = queue.Queue()

    def stop(self) -> None:
        """Stop at the next step, or in the line."""
        self._stop.set()

    def events(self) -> Iterator[Event]:
        """Wait in the line, work in a thread, and tell what happens; closing the iterator stops the run.

        Steps that nobody was quick enough to look at are left out, except for the last of each stage.

        Raises:
            Stopped: the run was stopped.
            Exception: what the work raises.
        """
        self.line.join(self)
        try:
            yield from self._wait()
        except BaseException:
            self.line.leave(self)
            raise
        threading.Thread(target=self._work, name="studio-run", daemon=True).start()  # leaves the line when it ends
        try:
            while True:
                event = self._newest()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.stop()

    def _wait(self) -> Iterator[Waiting]:
        told = 0
        while ahead := self.line.ahead(self):
            if self._stop.is_set():
                raise Stopped
            if ahead != told:
                told = ahead
                yield Waiting(ahead)
            self.line.wait(POLL)
        if self._stop.is_set():
            raise Stopped

    def _newest(self) -> Step | Finished | BaseException:
        event = self._events.get()
        while isinstance(event, Step) and event.step < event.num_steps:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                break
        return event

    def _work(self) -> None:
        try:
            self._events.put(Finished(self.work(self._progress)))
        except BaseException as error:  # it is raised again where the events are read
            self._events.put(error)
        finally:
            self.line.leave(self)

    def _progress(self, stage: str, state: SamplerState) -> None:
        if self._stop.is_set():
            raise Stopped
        images = tuple(to_images(state.denoised.detach()))
        self._events.put(Step(stage, state.step + 1, state.num_steps, state.sigma, images))
