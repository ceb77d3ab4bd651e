"""`ediffi` in a forked process, which a test may kill: nothing is imported again."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from torch.distributed import TCPStore

from ediffi.cli import main
from ediffi.training.growth import grow

TORCHRUN = {
    "GROUP_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "TORCHELASTIC_RUN_ID": "test",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "0",
}
SRUN = {"SLURM_JOB_NAME": "train", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}


def start(
    argv: list[str], ranks: int = 1, by: str = "torchrun", fork: bool = True, kill_on_bad_exit: bool = False
) -> int:
    """Run a command in a process group of its own, a growth schedule with its nodes in it; its process id.

    With several `ranks`, as torchrun or srun starts them. Without `fork`, nodes are processes as grow itself starts
    them. With `kill_on_bad_exit`, the whole group is killed as soon as one of them fails, as `srun --kill-on-bad-exit`
    does.
    """
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    if ranks == 1:
        _run(argv, main if fork else grow._process)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(ranks)
    if by == "srun":
        os.environ |= SRUN | {"SLURM_JOB_ID": str(port), "SLURM_NTASKS": count, "SLURM_NTASKS_PER_NODE": count}
        numbers = ("SLURM_PROCID", "SLURM_LOCALID")
    else:
        agent = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # which all runs share
        os.environ |= TORCHRUN | {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": str(agent.port)}
        numbers = ("RANK", "LOCAL_RANK")
    started = []
    for rank in range(ranks):
        if not (child := os.fork()):
            os.environ |= dict.fromkeys(numbers, str(rank))
            _run(argv, _node if fork else grow._process)
        started.append(child)
    codes = []
    for _ in started:
        codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
        if kill_on_bad_exit and codes[-1]:
            os.killpg(0, signal.SIGKILL)
    os._exit(max(map(abs, codes)))


def _node(argv: Sequence[str]) -> int:
    """A node of a schedule in a process of its own."""
    if not (pid := os.fork()):
        _run(list(argv), main)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run(argv: list[str], run_node: Callable[[list[str]], int]) -> NoReturn:
    code = 1
    try:
        grow._process = run_node
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
    if code := end(pid):
        pytest.fail(f"it ended with code {code}")


def end(pid: int) -> int:
    """The exit code of a command, when it ends."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left(group: int, patience: float = 20.0) -> list[str]:
    """The processes of a group, by name and state, that still run after some seconds."""
    until = time.monotonic() + patience
    while found := list(_running(group)):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return found


def _running(group: int) -> Iterator[str]:
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = place.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        state, _, of, *_ = fields.split()
        if int(of) == group and state != "Z":
            yield f"{name}) {state}"
