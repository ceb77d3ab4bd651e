"""A run's claim to its folder: the settings it was made with (`run.json`), and a lock while it works.

A run may be resumed with the same settings only. Each process of a run has a lock of its own, so that processes that
outlive a killed first process are noticed too.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ediffi.io import files, locks, plain_json

RUN = "run.json"
FORMAT = "ediffi-run-1"
PATIENCE = 10.0
"""Seconds that the other processes of a run have to end after their first process was killed."""


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of plain JSON values, as a hexadecimal number; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """Write the settings of a run into its folder, which must exist, and return their hash.

    If the folder has settings, they must be the same: ValueError lists the differences.
    """
    path, wanted = folder / RUN, json.loads(json.dumps(settings))
    digest = settings_hash(wanted)
    if not path.exists():
        content = {"format": FORMAT, "sha256": digest, "settings": wanted}
        files.replace(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    elif changes := list(differences(_read(path), wanted)):
        more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
        listed = ", ".join(changes[:3]) + more
        raise ValueError(f"{folder} holds a run with other settings: {listed}; choose another folder")
    return digest


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """The differences of plain JSON values, in words: "seed was 0, now 1"."""
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
            yield f"{name} had {len(old)} entries, now {len(new)}"
        else:
            for index, (one, other) in enumerate(zip(old, new, strict=True)):
                yield from differences(one, other, f"{name}[{index}]")
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield f"{name} was {_short(old)}, now {_short(new)}"


@contextmanager
def lock(folder: Path, rank: int = 0) -> Iterator[None]:
    """Hold this rank's lock of a folder while the block runs; BlockingIOError names the process that holds it.

    Rank 0 first waits, for at most `PATIENCE` seconds, for processes that a killed run left.
    """
    with locks.hold(folder / (f".lock-{rank}" if rank else ".lock")):
        if rank == 0:
            deadline = time.monotonic() + PATIENCE
            for left in folder.glob(".lock-*[0-9]"):
                _wait_for(left, deadline)
        yield


def _wait_for(lock: Path, deadline: float) -> None:
    free = False
    while not free and time.monotonic() < deadline:
        with locks.try_hold(lock) as free:
            time.sleep(0 if free else 0.1)
    with locks.hold(lock):  # raises with the name of the process that still holds it
        return


def _read(path: Path) -> Any:
    """The settings in a `run.json`."""
    try:
        content = plain_json.read(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"it is not of the format {FORMAT!r}")
        if settings_hash(content["settings"]) != content["sha256"]:
            raise ValueError("its settings do not match its hash, so the file was changed")
        return content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is broken: {error}; choose another folder") from None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
