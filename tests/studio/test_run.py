"""One model, several visitors: in turn, watched, stopped, and never left locked."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ediffi.pipeline.cascade import Progress
from ediffi.registry.types import SamplerState
from ediffi.studio.run import Event, Finished, Line, Run, Step, Stopped, Waiting


def state(step: int, num_steps: int) -> SamplerState:
    picture = torch.full((2, 3, 4, 4), step / num_steps)
    return SamplerState(step, num_steps, 1.0, picture, picture)


def steps(progress: Progress, count: int = 3, stage: str = "base", pause: float = 0.0) -> None:
    for step in range(count):
        time.sleep(pause)
        progress(stage, state(step, count))


class Gate:
    """Work that waits inside until it is let go."""

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


def follow(run: Run) -> tuple[threading.Thread, list[Any]]:
    """Reads a run's events in a thread; the last is what ended it."""
    seen: list[Any] = []

    def read() -> None:
        try:
            seen.extend(run.events())
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, seen


def until(condition: Callable[[], bool]) -> None:
    last = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.01)


def test_a_run_tells_its_steps_and_its_result() -> None:
    def work(progress: Progress) -> int:
        steps(progress, pause=0.02)
        return 7

    events = list(Run(work, Line()).events())
    assert events[-1] == Finished(7)
    told = [event for event in events if isinstance(event, Step)]
    assert [event.step for event in told] == [1, 2, 3]
    assert len(told[0].images) == 2
    assert told[0].images[0].size == (4, 4)


def test_a_slow_reader_misses_steps_but_not_the_last_of_a_stage() -> None:
    def work(progress: Progress) -> None:
        steps(progress, 5, "base")
        steps(progress, 4, "sr64")

    events: list[Event] = []
    for event in Run(work, Line()).events():
        events.append(event)
        time.sleep(0.1)
    told = [(event.stage, event.step) for event in events if isinstance(event, Step)]
    assert told[-2:] == [("base", 5), ("sr64", 4)]
    assert len(told) <= 3


def test_the_work_s_error_reaches_the_reader_and_frees_the_line() -> None:
    line = Line()

    def work(progress: Progress) -> None:
        raise ValueError("no such stage")

    with pytest.raises(ValueError, match="no such stage"):
        list(Run(work, line).events())
    assert [type(e) for e in Run(lambda progress: None, line).events()] == [Finished]


def test_runs_are_served_in_the_order_they_came() -> None:
    line, gates = Line(), [Gate() for _ in range(3)]
    runs = []
    for gate in gates:
        run = Run(gate, line)
        runs.append(follow(run))
        until(lambda run=run: run in line._places)
    for gate in gates:
        assert gate.entered.wait(5)
        assert sum(one.entered.is_set() and not one.ended.is_set() for one in gates) == 1
        gate.go.set()
        assert gate.ended.wait(5)
    for thread, _ in runs:
        thread.join(5)
    waits = [[event.ahead for event in seen if isinstance(event, Waiting)] for _, seen in runs]
    assert waits == [[], [1], [2, 1]]
    assert [seen[-1] for _, seen in runs] == [Finished("done")] * 3


def test_stopping_ends_the_work_at_its_next_step() -> None:
    line, done = Line(), []

    def work(progress: Progress) -> None:
        steps(progress, 100_000, pause=0.005)
        done.append("all")

    run = Run(work, line)
    thread, seen = follow(run)
    until(lambda: any(isinstance(event, Step) for event in seen))
    run.stop()
    thread.join(5)
    assert isinstance(seen[-1], Stopped)
    assert not done
    until(lambda: not line._places)


def test_stopping_in_the_line_leaves_it_and_never_works() -> None:
    line, gate, never = Line(), Gate(), Gate()
    first, _ = follow(Run(gate, line))
    assert gate.entered.wait(5)
    waiting = Run(never, line)
    second, seen = follow(waiting)
    until(lambda: Waiting(1) in seen or waiting in line._places)
    waiting.stop()
    second.join(5)
    assert isinstance(seen[-1], Stopped)
    assert not never.entered.is_set()
    gate.go.set()
    first.join(5)
    until(lambda: not line._places)


def test_a_visitor_who_leaves_stops_the_run_and_frees_the_line() -> None:
    line, gate = Line(), Gate()
    events = Run(gate, line).events()
    assert isinstance(next(events), Step)
    waiting = Run(lambda progress: None, line).events()
    assert next(waiting) == Waiting(1)
    waiting.close()
    assert len(line._places) == 1
    events.close()
    gate.go.set()
    assert gate.ended.wait(5)
    until(lambda: not line._places)


def test_the_line_is_held_until_the_work_has_really_ended() -> None:
    line, gate = Line(), Gate()
    run = Run(gate, line)
    events = run.events()
    next(events)
    events.close()
    second = Gate()
    thread, _ = follow(Run(second, line))
    time.sleep(0.1)
    assert not second.entered.is_set()
    gate.go.set()
    assert second.entered.wait(5)
    second.go.set()
    thread.join(5)
