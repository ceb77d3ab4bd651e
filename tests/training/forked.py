"""`ediffi` in a forked process, which a test may kill: nothing is imported again."""

import os
import signal
import sys
import traceback

import pytest

from ediffi.cli import main
from ediffi.training.growth import grow


def start(argv: list[str]) -> int:
    """Run a command in a process group of its own, a growth schedule with its nodes in it; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
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
