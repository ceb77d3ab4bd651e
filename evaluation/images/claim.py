"""What a folder of pictures is for, and who is at work in it.

`run.json` holds the settings and their hash: a folder goes on only with the very same. A lock (flock, which ends with
its process however that ends) keeps a second run out; each process of a run holds one of its own, so that what is left
of a run whose first process was killed is noticed too.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ediffi.io import files

RUN = "run.json"
FORMAT = "ediffi-run-1"
PATIENCE = 10.0
"""Seconds that the processes of a run whose first process was killed have to notice it."""


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of plain JSON values, as a hexadecimal number; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def settle(folder: Path, settings: Mapping[str, Any]) -> str:
    """Write down what the folder is for, or make sure that it is for this.

    Args:
        folder: must exist.
        settings: plain JSON values.

    Returns:
        The settings' hash.

    Raises:
        ValueError: the folder is for something else; the message says what differs. Or its `run.json` is broken.
    """
    path, wanted = folder / RUN, json.loads(json.dumps(settings))
    digest = settings_hash(wanted)
    if path.exists():
        found = _read(path)
        if changes := list(differences(found, wanted)):
            more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise ValueError(
                f"{folder} holds a run with other settings: {', '.join(changes[:3])}{more}; choose another folder"
            )
        return digest
    content = {"format": FORMAT, "sha256": digest, "settings": wanted}
    files.replace(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return digest


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What of plain JSON values is not the same, in words: "seed was 0, now 1"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{name}.{key}" if name else key
            if key not in new:
                yield f"{inner} was {_short(old[key])}, now not given"
            elif key not in old:
                yield f"{inner} was not given, now {_short(new[key])}"
            else:
                yield from differences(old[key], new[key], inner)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{name} were {len(old)}, now {len(new)}"
        else:
            for index, (one, other) in enumerate(zip(old, new, strict=True)):
                yield from differences(one, other, f"{name}[{index}]")
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield f"{name} was {_short(old)}, now {_short(new)}"


@contextmanager
def held(folder: Path, rank: int = 0) -> Iterator[None]:
    """A context in which no other process holds this rank of the folder; rank 0 waits for what a killed run left.

    Raises:
        BlockingIOError: another process holds it; the message says which, where and since when.
        OSError: the folder cannot be written to.
    """
    path = _lock(folder, rank)
    with _locked(path, 0.0, folder):
        if rank == 0:
            for left in folder.glob(f"{path.name}-*[0-9]"):
                with _locked(left, PATIENCE, folder):
                    pass
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "rank": rank}
        _holder(path).write_text(json.dumps(holder), encoding="utf-8")
        try:
            yield
        finally:
            _holder(path).unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, patience: float, folder: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise BlockingIOError(f"{folder} is in use by {_described(_holder(path))}; wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path, rank: int) -> Path:
    return folder / (".lock" if rank == 0 else f".lock-{rank}")


def _holder(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.json")


def _described(path: Path) -> str:
    """Who holds a lock, in words."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _read(path: Path) -> Any:
    """The settings in a `run.json`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"it is not of the format {FORMAT!r}")
        if settings_hash(content["settings"]) != content["sha256"]:
            raise ValueError("its settings do not have the hash it says, so it was changed")
        return content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say what its folder is for: {error}; choose another folder") from None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
