"""Which shards of a folder are finished, and which process works on which: for any number of processes, killed or not.

A process takes a shard by locking a file, which the system unlocks when the process ends. It writes the shard, renames
it into place, and then records it. So processes need not know of each other: a shard of a dead process is taken over,
and the same command started twice shares the work. A store (a folder with a URL) has no locks; there the engine of a
cluster sees to it that each shard has one worker.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ediffi.data.index import INDEX, write_index
from ediffi.io import plain_json, urls
from ediffi.io.locks import try_hold

RECORDS = ".embedding"
REQUEST = "request.json"


class Ledger:
    """The records of a folder, a path or URL, that will have `count` shards. Nothing is written before `begin`.
    `request` is plain JSON that says what the folder is for. ValueError: the folder is for another request, or holds
    shards that are not recorded."""

    def __init__(self, folder: Path | str, count: int, request: Mapping[str, Any]) -> None:
        self.folder, self.count, self.request = str(folder), count, json.loads(json.dumps(request))
        self._records_folder = urls.join(self.folder, RECORDS)
        self._has_locks = not urls.is_remote(self.folder)
        self._records: dict[int, dict[str, Any]] = {}
        if self.is_complete:
            self._compare(plain_json.loads(urls.read_bytes(self.place(INDEX))).get("request"))
        elif urls.exists(self._record(REQUEST)):
            self._claim()
        elif not urls.names(self._records_folder) and any(name.endswith(".tar") for name in urls.names(self.folder)):
            raise ValueError(f"{self.folder} holds shards that this command did not make; choose another folder")

    def begin(self) -> None:
        """Make the folder, and record the request. ValueError: it is for another one. OSError: it cannot lock files."""
        if self.is_complete:
            return
        if not self._has_locks:
            self._claim()
            return
        Path(self._records_folder).mkdir(parents=True, exist_ok=True)
        with try_hold(Path(self._record("request.lock")), wait=True):
            self._claim()

    @property
    def is_complete(self) -> bool:
        """Whether the index is written, so that there is nothing left to do."""
        return urls.exists(self.place(INDEX))

    def name(self, number: int) -> str:
        """The file name of a shard."""
        return f"{number:05d}.tar"

    def place(self, name: str) -> str:
        """The path or URL of a file in the folder."""
        return urls.join(self.folder, name)

    def records(self) -> dict[int, dict[str, Any]]:
        """The records of the finished shards, by number."""
        for name in urls.names(self._records_folder):  # none once the index is written
            number, _, suffix = name.partition(".")
            if suffix == "json" and number.isdecimal() and int(number) not in self._records:
                self.is_recorded(int(number))
        return self._records

    def pending(self) -> list[int]:
        """The shards without a record; none once the index is written."""
        done = range(self.count) if self.is_complete else self.records()
        return [number for number in range(self.count) if number not in done]

    @contextmanager
    def taken(self, number: int) -> Iterator[bool]:
        """Take a shard while the block runs; False if it is finished, or another process has it."""
        if not self._has_locks:
            yield not self.is_recorded(number)
            return
        with try_hold(Path(self._record(f"{number:05d}.lock"))) as locked:
            yield locked and not self.is_complete and not self.is_recorded(number)

    def record(self, number: int, entry: Mapping[str, Any]) -> None:
        """Record a shard that is in its place, with its entry for the index."""
        urls.write_bytes(self._record(f"{number:05d}.json"), json.dumps({"file": self.name(number), **entry}))
        self.is_recorded(number)

    def is_recorded(self, number: int) -> bool:
        """Whether a shard has a record; one whose shard is gone, or has another size, does not count."""
        try:
            entry = plain_json.loads(urls.read_bytes(self._record(f"{number:05d}.json")))
            if urls.size(self.place(entry["file"])) == entry["bytes"]:
                self._records[number] = entry
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the record of {self.place(self.name(number))} is broken: {error!r}") from None
        return number in self._records

    def finish(self, description: Mapping[str, Any]) -> str:
        """Write the index of all shards, and remove the records."""
        records = self.records()
        shards = [records[number] for number in range(self.count)]
        index = write_index(self.place(INDEX), shards, {**description, "request": self.request})
        urls.remove_folder(self._records_folder)
        return index

    def _record(self, name: str) -> str:
        return urls.join(self._records_folder, name)

    def _claim(self) -> None:
        path = self._record(REQUEST)
        if not urls.exists(path):
            urls.write_bytes(path, json.dumps(self.request, indent=1, ensure_ascii=False))
        self._compare(plain_json.loads(urls.read_bytes(path)))

    def _compare(self, found: Any) -> None:
        found = found or {}
        if different := sorted(key for key in {*self.request, *found} if found.get(key) != self.request.get(key)):
            other = f"holds, or is getting, other shards than these ({', '.join(different)} differ)"
            raise ValueError(f"{self.folder} {other}; choose another folder or remove it")
