"""The directory of a reproduction: its settings, its cached results, and locks between the processes that share it."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ediffi
from ediffi.evaluation.results import flattened
from ediffi.io.files import replace
from ediffi.io.locks import try_hold
from reproduction.budget import Budget
from reproduction.outcome import Outcome

FORMAT = "ediffi-reproduction-1"
SETTINGS = "reproduction.json"


class ReproductionDirectory:
    """The directory of a reproduction. Processes may share it: one waits for what another is making.

    Args:
        folder: created if it is missing.
        budget: the size of the reproduction.

    Raises:
        ValueError: the folder is of another version or budget, or has other files.
    """

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget, self.seeds = folder, budget, range(budget.seeds)
        self._check_settings({"format": FORMAT, "ediffi": ediffi.__version__, "budget": asdict(budget)})

    def path(self, *parts: str) -> Path:
        """A path in the directory; its parent is created."""
        place = self.folder.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of `make`, plain JSON: computed once, then read from its file."""
        place = self.path("kept", f"{name}.json")
        with self.lock(name):
            if not place.is_file():
                replace(place, json.dumps(make()).encode())
            return json.loads(place.read_text())

    def outcome(self, name: str, make: Callable[["ReproductionDirectory"], Outcome]) -> Outcome:
        """The result of a table or figure, computed once."""
        return Outcome.from_plain(self.cached(f"outcome-{name}", lambda: make(self).plain()))

    def finished(self, name: str) -> Outcome | None:
        """The result of a table or figure if it is computed."""
        place = self.folder / "kept" / f"outcome-{name}.json"
        return Outcome.from_plain(json.loads(place.read_text())) if place.is_file() else None

    def lock(self, name: str) -> AbstractContextManager[Any]:
        """A lock on `name` between processes; entering it waits."""
        return try_hold(self.path("locks", f"{name}.lock"), wait=True)

    def _check_settings(self, wanted: dict[str, Any]) -> None:
        place = self.folder / SETTINGS
        wanted = json.loads(json.dumps(wanted))
        if place.is_file():
            try:
                found = json.loads(place.read_text())
            except ValueError:
                raise ValueError(f"{place} is broken; choose another --output, or remove the folder") from None
            recorded = dict(flattened(found))
            for key, value in flattened(wanted):
                if recorded.get(key) != value:
                    raise ValueError(
                        f"{self.folder} has a reproduction with {key} {recorded.get(key)!r}, not {value!r}; "
                        "choose another --output, or remove the folder"
                    )
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} has other files than a reproduction; choose another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(place, json.dumps(wanted, indent=1).encode())
