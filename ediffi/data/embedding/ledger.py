"""Which shards of a folder are finished, and which process works on which: for any number of processes, killed or not.

A process takes a shard by locking a file, which the system unlocks when the process ends. It writes the shard, renames
it into place, and then records it. So processes need not know of each other: a shard of a dead process is taken over,
and the same command started twice shares the work.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ediffi.data.index import INDEX, write_index
from ediffi.io.files import replace
from ediffi.io.locks import try_hold

RECORDS = ".embedding"
REQUEST = "request.json"


class Ledger:
    """The records of a folder that will have `count` shards. Nothing is written before `begin`. `request` is plain JSON
    that says what the folder is for. ValueError: the folder is for another request, or holds shards that are not
    recorded."""

    def __init__(self, folder: Path, count: int, request: Mapping[str, Any]) -> None:
        self.folder, self.count, self.request = folder, count, json.loads(json.dumps(request))
        self._records_folder = folder / RECORDS
        self._records: dict[int, dict[str, Any]] = {}
        if self.is_complete:
            self._compare(json.loads((folder / INDEX).read_text(encoding="utf-8")).get("request"))
        elif not self._records_folder.is_dir() and any(folder.glob("*.tar")):
            raise ValueError(f"{folder} holds shards that this command did not make; choose another folder")
        elif (self._records_folder / REQUEST).exists():
            self._claim()

    def begin(self) -> None:
        """Make the folder, and record the request. ValueError: it is for another one. OSError: it cannot lock files."""
        if not self.is_complete:
            self._records_folder.mkdir(parents=True, exist_ok=True)
            with try_hold(self._records_folder / "request.lock", wait=True):
                self._claim()

    @property
    def is_complete(self) -> bool:
        """Whether the index is written, so that there is nothing left to do."""
        return (self.folder / INDEX).exists()

    def name(self, number: int) -> str:
        """The file name of a shard."""
        return f"{number:05d}.tar"

    def records(self) -> dict[int, dict[str, Any]]:
        """The records of the finished shards, by number."""
        with suppress(FileNotFoundError):  # the folder of the records is removed once the index is written
            for name in os.listdir(self._records_folder):
                number, _, suffix = name.partition(".")
                if suffix == "json" and number.isdecimal() and int(number) not in self._records:
                    self._read(int(number))
        return self._records

    def pending(self) -> list[int]:
        """The shards without a record; none once the index is written."""
        done = range(self.count) if self.is_complete else self.records()
        return [number for number in range(self.count) if number not in done]

    @contextmanager
    def taken(self, number: int) -> Iterator[bool]:
        """Take a shard while the block runs; False if it is finished, or another process has it."""
        with try_hold(self._records_folder / f"{number:05d}.lock") as locked:
            yield locked and not self.is_complete and not self._read(number)

    def record(self, number: int, entry: Mapping[str, Any]) -> None:
        """Record a shard that is in its place, with its entry for the index."""
        replace(self._records_folder / f"{number:05d}.json", json.dumps({"file": self.name(number), **entry}))
        self._read(number)

    def finish(self, description: Mapping[str, Any]) -> Path:
        """Write the index of all shards, and remove the records."""
        records = self.records()
        shards = [records[number] for number in range(self.count)]
        index = write_index(self.folder / INDEX, shards, {**description, "request": self.request})
        shutil.rmtree(self._records_folder, ignore_errors=True)
        return index

    def _read(self, number: int) -> bool:
        """Look for a record; one whose shard is gone, or has another size, does not count."""
        try:
            entry = json.loads((self._records_folder / f"{number:05d}.json").read_text(encoding="utf-8"))
            if (self.folder / entry["file"]).stat().st_size == entry["bytes"]:
                self._records[number] = entry
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the record of {self.folder / self.name(number)} is broken: {error!r}") from None
        return number in self._records

    def _claim(self) -> None:
        path = self._records_folder / REQUEST
        if not path.exists():
            replace(path, json.dumps(self.request, indent=1, ensure_ascii=False))
        self._compare(json.loads(path.read_text(encoding="utf-8")))

    def _compare(self, found: Any) -> None:
        found = found or {}
        if different := sorted(key for key in {*self.request, *found} if found.get(key) != self.request.get(key)):
            other = f"holds, or is getting, other shards than these ({', '.join(different)} differ)"
            raise ValueError(f"{self.folder} {other}; choose another folder or remove it")
