"""Processes of a run: how many there are, and that none outlives the one that started it."""

import subprocess
import sys
import time

import pytest

from ediffi.io.distributed import DistributedContext, launch


def test_one_process_is_alone() -> None:
    context = launch("cpu")
    assert (context.rank, context.world_size, context.device, context.gather(7)) == (0, 1, "cpu", [7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cpu", 0), "devices must be at least 1, got 0"),
        (("cpu", 1, 0), "num_nodes must be at least 1, got 0"),
        (("cuda:1", 2), "2 processes need a device without a number.* got 'cuda:1'"),
        (("quda", 2), "device is 'quda'; it must be auto, cpu, cuda or"),
    ],
)
def test_impossible_processes(arguments: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(*arguments)


def test_the_numbers_of_torchrun_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"torchrun started 4 processes on each of 2 nodes, .* are 3 and 1"):
        launch("cpu", 3)


def test_an_error_of_one_process_is_raised_in_all() -> None:
    def fail() -> None:
        raise ValueError("here")

    context = DistributedContext(0, 2, "cpu", lambda value: [value, "there"])
    assert DistributedContext().together(lambda: 7) == 7
    with pytest.raises(ValueError, match="here"):
        context.together(fail)
    with pytest.raises(ChildProcessError, match=r"process 1 .* there"):
        context.together(lambda: 7)


def test_a_process_ends_with_the_one_that_started_it() -> None:
    child = (
        "import time; from ediffi.io import distributed; distributed._end_with_parent(); "
        "print('in', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        killed = time.perf_counter()
        process.kill()
        assert process.stdout.read() == b""  # once the child, too, has closed it
    assert time.perf_counter() - killed < 20
