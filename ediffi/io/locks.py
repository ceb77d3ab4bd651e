"""Locks between processes: one run at a time works in a folder, and a second run gets an error that names the first.

A lock is a file lock of the system (flock), so it ends with its process, however that ends. A note beside it names the
holder, for messages only.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ediffi.io import files, plain_json

HOST = socket.gethostname()


@contextmanager
def hold(lock: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file while the block runs; BlockingIOError names another process that holds it. `patience` is how
    many seconds to wait for a holder that is not known to be alive: children of a killed process may keep the lock for
    a moment. A holder that is alive on this machine is not waited for."""
    note = note_of(lock)
    file = FileLock(lock, thread_local=False)
    if not _acquired(file, 0.0) and (_is_alive(note) or not _acquired(file, patience)):
        advice = "wait for it to end, or choose another folder"
        raise BlockingIOError(f"{lock.parent} is in use by {holder(lock)}; {advice}")
    try:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        files.replace(note, json.dumps({"pid": os.getpid(), "host": HOST, "since": since}))
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        file.release()


@contextmanager
def try_hold(lock: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file while the block runs, if possible, or `wait` for it; yields whether it is held. It is not held
    if another process holds it, or its folder does not exist. OSError: the file system cannot lock files."""
    file = FileLock(lock, thread_local=False)
    try:
        acquired = lock.parent.is_dir() and _acquired(file, -1 if wait else 0.0)
    except FileNotFoundError:
        acquired = False
    try:
        yield acquired
    finally:
        if acquired:
            file.release()


def holder(lock: Path) -> str:
    """The process that holds a lock, in words."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        note = plain_json.loads(note_of(lock).read_bytes())
        return f"process {note['pid']} on {note['host']} since {note['since']}"
    return "another process"


def note_of(lock: Path) -> Path:
    """The file in which the holder of a lock is named."""
    return lock.with_name(f"{lock.name}.json")


def _acquired(file: FileLock, timeout: float) -> bool:
    try:
        file.acquire(timeout=timeout)
    except Timeout:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            folder = str(Path(file.lock_file).parent)
            raise OSError(error.errno, "its file system cannot lock files; choose another folder", folder) from None
        raise
    return True


def _is_alive(note: Path) -> bool:
    """Whether the process that a note names runs on this machine."""
    try:
        known = plain_json.loads(note.read_bytes())
        if here := known["host"] == HOST:
            os.kill(known["pid"], 0)  # signal 0 does nothing, and fails if there is no such process
        return bool(here)
    except PermissionError:  # it runs, as another user
        return True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return False
