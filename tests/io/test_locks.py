"""One process at a time holds a lock; it ends with its process; a second process is told who holds it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ediffi.io import locks

HOLD = """
import sys, time
from pathlib import Path
from ediffi.io import locks
with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
ORPHAN = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def started(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate("")


def test_a_second_process_is_refused_at_once_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with started(HOLD, lock) as process:
        note = json.loads(locks.note_of(lock).read_text())
        assert (note["pid"], note["host"]) == (process.pid, locks.HOST)
        began = time.monotonic()
        with (
            pytest.raises(BlockingIOError, match=rf"process {process.pid} on {locks.HOST} since {note['since'][:10]}"),
            locks.hold(lock, patience=60),
        ):
            raise AssertionError("the block must not run")
        assert time.monotonic() - began < 5
    assert not locks.note_of(lock).exists()
    with locks.hold(lock):
        assert locks.holder(lock).startswith(f"process {os.getpid()} on ")


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with started(HOLD, lock) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks.note_of(lock).exists()
        with locks.hold(lock):
            pass


@pytest.mark.parametrize("note", [None, {"pid": 2**30}, {"pid": os.getpid(), "host": "elsewhere"}, {"pid": 10**30}, []])
def test_children_of_a_dead_holder_are_waited_for(tmp_path: Path, note: object) -> None:
    """Where the note names no living process of this machine, the lock may be freed in a moment."""
    lock = tmp_path / "run.lock"
    if note is not None:
        content = {"host": locks.HOST, "since": "now", **note} if isinstance(note, dict) else note
        locks.note_of(lock).write_text(json.dumps(content))
    with started(ORPHAN, lock, 0.5), locks.hold(lock, patience=30):
        pass


def test_the_wait_has_an_end(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with started(HOLD, lock):
        locks.note_of(lock).unlink()
        began = time.monotonic()
        with pytest.raises(BlockingIOError, match="another process"), locks.hold(lock, patience=0.3):
            raise AssertionError("the block must not run")
        assert time.monotonic() - began >= 0.3


def test_a_block_that_raises_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with pytest.raises(RuntimeError), locks.hold(lock):
        raise RuntimeError
    assert not locks.note_of(lock).exists()
    with locks.try_hold(lock) as held:
        assert held


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locks.hold(tmp_path / "file" / "run.lock"):
        raise AssertionError("the block must not run")


def test_a_full_disk_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    locks.note_of(lock).with_name("run.lock.json.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), locks.hold(lock):
        raise AssertionError("the block must not run")
    with locks.try_hold(lock) as held:
        assert held


def test_try_hold(tmp_path: Path) -> None:
    lock = tmp_path / "0.lock"
    with locks.try_hold(lock) as first, locks.try_hold(lock) as second:
        assert (first, second) == (True, False)
    with locks.try_hold(lock) as again:
        assert again
    with locks.try_hold(tmp_path / "missing" / "0.lock") as held:
        assert not held
    assert not (tmp_path / "missing").exists()


def test_try_hold_waits_if_told_to(tmp_path: Path) -> None:
    lock = tmp_path / "0.lock"
    with started(ORPHAN, lock, 0.5):
        with locks.try_hold(lock) as held:
            assert not held
        with locks.try_hold(lock, wait=True) as held:
            assert held
