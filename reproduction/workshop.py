"""Where a reproduction is made: its folder, what is finished in it, and who is at what."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

import ediffi
from ediffi.evaluation.results import flattened
from ediffi.io.files import replace
from reproduction.budget import Budget
from reproduction.outcome import Outcome

FORMAT = "ediffi-reproduction-1"
CLAIM = "reproduction.json"


class Workshop:
    """The folder of a reproduction. Processes may share it: what one is at, another waits for.

    Args:
        folder: made if it is missing.
        budget: what it may cost.

    Raises:
        ValueError: the folder is of another version or budget, or holds something else.
    """

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget, self.seeds = folder, budget, range(budget.seeds)
        self._claim({"format": FORMAT, "ediffi": ediffi.__version__, "budget": asdict(budget)})

    def path(self, *parts: str) -> Path:
        """A place in the folder, whose parent is there."""
        place = self.folder.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, plain JSON; made once, and read ever after."""
        place = self.path("kept", f"{name}.json")
        with self.alone_at(name):
            if not place.is_file():
                replace(place, json.dumps(make()).encode())
            return json.loads(place.read_text())

    def outcome(self, name: str, make: Callable[["Workshop"], Outcome]) -> Outcome:
        """The outcome of a table or figure, made once."""
        return Outcome.from_plain(self.kept(f"outcome-{name}", lambda: make(self).plain()))

    def finished(self, name: str) -> Outcome | None:
        """The outcome of a table or figure if it is made."""
        place = self.folder / "kept" / f"outcome-{name}.json"
        return Outcome.from_plain(json.loads(place.read_text())) if place.is_file() else None

    @contextmanager
    def alone_at(self, name: str) -> Iterator[None]:
        """While this lasts, no other process is at `name`."""
        with FileLock(self.path("locks", f"{name}.lock")):
            yield

    def _claim(self, wanted: dict[str, Any]) -> None:
        place = self.folder / CLAIM
        wanted = json.loads(json.dumps(wanted))
        if place.is_file():
            try:
                found = json.loads(place.read_text())
            except ValueError:
                raise ValueError(f"{place} is broken; choose another --output, or remove the folder") from None
            had = dict(flattened(found))
            for key, value in flattened(wanted):
                if had.get(key) != value:
                    raise ValueError(
                        f"{self.folder} holds a reproduction with {key} {had.get(key)!r}, and this one has {value!r}; "
                        "choose another --output, or remove the folder"
                    )
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds something else than a reproduction; choose another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(place, json.dumps(wanted, indent=1).encode())
