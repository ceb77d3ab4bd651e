"""What can happen while a process writes: a kill, a full disk, a folder that takes nothing; then it runs again."""

import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ediffi.data.shards import write_shards
from tests.faults import evaluations, runs, shards
from tests.faults.harness import FAMILIES, Attempt, Family

NOBODY = 65534


def train(folder: Path) -> Any:
    """A run that saves every step, from its last checkpoint if there is one."""
    last = folder / "run" / "checkpoints" / "last.ckpt"
    found = runs.train(folder / "run", runs.shards(), runs.STEPS, last if last.is_file() else None, every=1)
    return {key: value.sum().item() for key, value in found.items()}


def measure(folder: Path) -> Any:
    return evaluations.measured(folder)


def write(folder: Path) -> Any:
    """Shards are written again as a whole where their index, which comes last, is not there."""
    if not (folder / "shards" / "index.json").is_file():
        samples = iter(runs.samples(0, 12))
        write_shards(folder / "shards", samples, 4, {"encoders": runs.ENCODERS, "dtype": "bfloat16"})
    return shards.seen(folder / "shards")


ACTIONS: dict[str, Callable[[Path], Any]] = {"training": train, "measuring": measure, "writing shards": write}


def _images() -> Path:
    return evaluations.whole()[0] / "images"


@cache
def undisturbed(name: str) -> tuple[Any, float]:
    """What an action ends with, and how long it takes."""
    with tempfile.TemporaryDirectory(prefix="faults-whole-") as place:
        shutil.copytree(_images(), Path(place, "images"))
        ACTIONS[name](Path(place))
    with tempfile.TemporaryDirectory(prefix="faults-whole-") as place:
        shutil.copytree(_images(), Path(place, "images"))
        begun = time.monotonic()
        return ACTIONS[name](Path(place)), time.monotonic() - begun


def forked(action: Callable[[], Any], before: Callable[[], None], kill_after: float | None = None) -> str:
    """Run an action in a process of its own; what it said if it failed, "" if it did not, or was killed."""
    read, written = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = ""
        try:
            before()
            action()
        except (ValueError, OSError) as error:
            said = str(error) or "an empty message"
        except BaseException as error:
            said = f"\n{type(error).__name__}: {error}"
        os.write(written, said.encode()[:1000])
        os._exit(0)
    os.close(written)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return said


def _operation(name: str, kind: str) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        (whole, seconds), action = undisturbed(name), ACTIONS[name]
        shutil.copytree(_images(), scratch / "images")
        limit = int(10 ** rng.uniform(1, 6))

        def full() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        def barred() -> None:
            scratch.chmod(0o500)
            if os.getuid() == 0:  # whom nothing bars
                os.setuid(NOBODY)

        def attempt() -> str | None:
            before = {"kill": lambda: None, "full disk": full, "read-only folder": barred}[kind]
            said = forked(lambda: action(scratch), before, rng.uniform(0, 1.1 * seconds) if kind == "kill" else None)
            scratch.chmod(0o700)
            if "\n" in said:
                raise RuntimeError(said)
            return None if action(scratch) == whole else "another result after it"

        return attempt

    return prepare


for _name in ACTIONS:
    for _kind in ("kill", "full disk", "read-only folder"):
        FAMILIES[f"{_kind} while {_name}"] = _operation(_name, _kind)
