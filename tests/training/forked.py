"""`ediffi` in a forked process, which a test may kill: nothing is imported again."""

import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

import pytest

from ediffi.cli import main
from ediffi.training.growth import grow


def start(argv: list[str], ranks: int = 1) -> int:
    """Run a command in a process group of its own, a growth schedule with its nodes in it; its process id.

    With several `ranks`, as torchrun starts them.
    """
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    if ranks == 1:
        _run(argv)
    os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", **_rendezvous()}
    started = []
    for rank in range(ranks):
        if not (child := os.fork()):
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            _run(argv)
        started.append(child)
    os._exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in started))


def _rendezvous() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "TORCHELASTIC_RUN_ID": "test"}


def _run(argv: list[str]) -> NoReturn:
    code = 1
    try:
        grow._process = main
        code = main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def assert_running(pid: int) -> None:
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"


def kill(pid: int) -> None:
    """Kill -9 of the process group."""
    assert_running(pid)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def wait(pid: int) -> None:
    """Wait for the end of a command that should succeed."""
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        pytest.fail(f"it ended with code {code}")
