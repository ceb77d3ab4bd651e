"""A few injections of each family, with a seed of the day that is printed; `make faults` runs them all."""

import os
import signal
import time

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx")

from tests.faults.families import FAMILIES
from tests.faults.harness import FAMILIES as KNOWN
from tests.faults.harness import HangError, Worker, alarm, table, verdict

SEED = time.strftime("%Y%m%d")


@pytest.mark.parametrize("name", FAMILIES)
def test_no_fault_passes_in_silence(name: str) -> None:
    for number in range(2):
        seed = f"{SEED}/{name}/{number}"
        found, said = verdict(FAMILIES[name], seed)
        assert found in ("refused", "same"), f"{seed}: {found}: {said}"


def test_no_room_is_left_out() -> None:
    rooms = {family.__module__.rpartition(".")[2] for family in FAMILIES.values()}
    assert rooms == {"models", "recipes", "servers", "runs", "shards", "evaluations", "inputs", "operations"}


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


def test_an_attempt_that_does_not_end_is_ended() -> None:
    with pytest.raises(HangError), alarm(1):
        time.sleep(10)
