"""Jobs of one model run one after the other, report their steps, stop when told to, and never block the queue."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from ediffi.pipeline.sampling import Progress
from ediffi.registry.types import SamplerState
from ediffi.studio.jobs import Finished, JobEvent, JobQueue, StepDone, Stopped, Waiting


def state(step: int, num_steps: int) -> SamplerState:
    images = torch.full((2, 3, 4, 4), step / num_steps)
    return SamplerState(step, num_steps, 1.0, images, images)


def steps(progress: Progress, count: int, stage: str = "base", pause: float = 0.0) -> None:
    for step in range(count):
        time.sleep(pause)
        progress(stage, state(step, count))


class Gate:
    """Work of two steps that waits for `go` between them."""

    def __init__(self) -> None:
        self.entered, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> str:
        try:
            self.entered.set()
            progress("base", state(0, 2))
            assert self.go.wait(10)
            progress("base", state(1, 2))
            return "done"
        finally:
            self.ended.set()


def follow(events: Iterator[JobEvent]) -> tuple[threading.Thread, list[Any]]:
    """Read events in a thread; the last entry of the list is the result or the error."""
    seen: list[Any] = []

    def read() -> None:
        try:
            seen.extend(events)
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, seen


def until(condition: Callable[[], bool]) -> None:
    last = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.005)


def test_a_job_reports_its_steps_and_its_result() -> None:
    def work(progress: Progress) -> int:
        steps(progress, 3, pause=0.02)
        return 7

    *reported, last = JobQueue().run("a", work)
    assert last == Finished(7)
    assert [event.step for event in reported if isinstance(event, StepDone)] == [1, 2, 3]
    first = reported[0]
    assert isinstance(first, StepDone)
    assert [image.size for image in first.images] == [(4, 4), (4, 4)]


def test_a_slow_reader_skips_steps_but_not_the_last_of_a_stage() -> None:
    def work(progress: Progress) -> None:
        steps(progress, 5, "base")
        steps(progress, 4, "sr64")

    events = JobQueue().run("a", work)
    seen = [next(events)]
    time.sleep(0.1)
    seen += events
    reported = [(event.stage, event.step) for event in seen if isinstance(event, StepDone)]
    assert reported[-2:] == [("base", 5), ("sr64", 4)]
    assert len(reported) <= 3


def test_an_error_reaches_the_reader_and_frees_the_queue() -> None:
    def work(progress: Progress) -> None:
        raise ValueError("no such stage")

    jobs = JobQueue()
    with pytest.raises(ValueError, match="no such stage"):
        list(jobs.run("a", work))
    assert [type(event) for event in jobs.run("a", lambda progress: None)] == [Finished]


def test_jobs_run_in_order_of_arrival() -> None:
    jobs, gates, readers = JobQueue(), [Gate() for _ in range(3)], []
    for ahead, gate in enumerate(gates):
        readers.append(follow(jobs.run("a", gate)))
        until(gate.entered.is_set if ahead == 0 else lambda ahead=ahead: Waiting(ahead) in readers[ahead][1])
    for gate in gates:
        assert gate.entered.wait(5)
        assert sum(one.entered.is_set() and not one.ended.is_set() for one in gates) == 1
        gate.go.set()
        assert gate.ended.wait(5)
    for thread, _ in readers:
        thread.join(5)
    waits = [[event.ahead for event in seen if isinstance(event, Waiting)] for _, seen in readers]
    assert waits == [[], [1], [2, 1]]
    assert [seen[-1] for _, seen in readers] == [Finished("done")] * 3


def test_stopping_ends_the_jobs_of_one_session() -> None:
    jobs, gate, never = JobQueue(), Gate(), Gate()
    running = follow(jobs.run("a", lambda progress: steps(progress, 100_000, pause=0.005)))
    until(lambda: bool(running[1]))
    waiting, last = follow(jobs.run("b", never)), follow(jobs.run("c", gate))
    until(lambda: Waiting(2) in last[1])
    jobs.stop("b")
    waiting[0].join(5)
    assert isinstance(waiting[1][-1], Stopped)
    assert not never.entered.is_set()
    assert running[0].is_alive()
    jobs.stop("a")
    running[0].join(5)
    assert isinstance(running[1][-1], Stopped)
    assert gate.entered.wait(5)
    gate.go.set()
    last[0].join(5)
    assert last[1][-1] == Finished("done")
    assert jobs.wait_until_idle(5)


def test_stop_without_a_session_stops_all() -> None:
    jobs = JobQueue()
    readers = [follow(jobs.run(session, lambda progress: steps(progress, 100_000, pause=0.005))) for session in "ab"]
    until(lambda: len(jobs._jobs) == 2)
    assert not jobs.wait_until_idle(0)
    jobs.stop()
    assert jobs.wait_until_idle(5)
    for thread, seen in readers:
        thread.join(5)
        assert isinstance(seen[-1], Stopped)


def test_a_reader_that_leaves_stops_its_job() -> None:
    jobs, gate, second = JobQueue(), Gate(), Gate()
    events = jobs.run("a", gate)
    assert isinstance(next(events), StepDone)
    waiting = jobs.run("b", lambda progress: None)
    assert next(waiting) == Waiting(1)
    waiting.close()
    assert len(jobs._jobs) == 1
    events.close()
    thread, _ = follow(jobs.run("c", second))
    assert not second.entered.wait(0.1)  # the model is in use until the first job has ended
    gate.go.set()
    assert second.entered.wait(5)
    second.go.set()
    thread.join(5)
    assert jobs.wait_until_idle(5)
