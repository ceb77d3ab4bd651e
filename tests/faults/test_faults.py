"""An injection of each family, with a seed of the day that is printed; `make faults` runs them all."""

import os
import signal
import time

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx")

from tests.faults.families import FAMILIES
from tests.faults.harness import FAMILIES as KNOWN
from tests.faults.harness import Family, HangError, Worker, alarm, table, verdict

SEED = time.strftime("%Y%m%d")


ROOMS = ("models", "recipes", "servers", "runs", "shards", "evaluations", "inputs", "operations")


def room_of(family: Family) -> str:
    return family.__module__.rpartition(".")[2]


@pytest.mark.parametrize("room", ROOMS)  # what a room keeps of its families is made once
def test_no_fault_passes_in_silence(room: str) -> None:
    bad = []
    for name in [name for name, family in FAMILIES.items() if room_of(family) == room]:
        found, said = verdict(FAMILIES[name], f"{SEED}/{name}/0")
        if found not in ("refused", "same"):
            bad.append(f"{SEED}/{name}/0: {found}: {said}")
    assert not bad


def test_no_room_is_left_out() -> None:
    assert {room_of(family) for family in FAMILIES.values()} == set(ROOMS)


def test_a_process_that_dies_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "dies", lambda rng, scratch: lambda: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setitem(KNOWN, "fine", lambda rng, scratch: lambda: None)
    worker = Worker()
    assert worker.ask("fine", "1") == ("same", "")
    assert worker.ask("dies", "1") == ("traceback", "the process died")
    assert worker.left == 0
    worker.end()


def test_the_verdicts_are_told_apart() -> None:
    def fails(error: BaseException):
        def attempt() -> None:
            raise error

        return lambda rng, scratch: attempt

    cases = {
        "refused": fails(ValueError("the value is 3")),
        "traceback": fails(KeyError("x")),
        "same": lambda rng, scratch: lambda: None,
        "silent": lambda rng, scratch: lambda: "another picture",
        "hang": fails(HangError()),
        "leak": lambda rng, scratch: lambda: (scratch.parent / "written").write_text("x") and None,
    }
    rows = [{"family": name, "verdict": verdict(case, "1")[0]} for name, case in cases.items()]
    assert [row["verdict"] for row in rows] == list(cases)
    assert verdict(fails(ValueError("two\nlines")), "1")[0] == "traceback"
    assert "| leak | 0 | 0 | 0 | 0 | 0 | 1 |" in table(rows)


def endless() -> None:
    while True:  # a loop of C alone, such as all(repeat(1)), would never hear a signal
        time.process_time()


def test_an_attempt_that_does_not_end_is_ended() -> None:
    with pytest.raises(HangError), alarm(30, 1):
        time.sleep(10)
    with pytest.raises(HangError), alarm(1, 30):
        endless()
