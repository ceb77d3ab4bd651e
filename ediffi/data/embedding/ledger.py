"""What is done of a long piece of work over many shards, and who is at what: any number of processes, killed at will.

Whoever takes a shard locks a file (`flock`), which the system unlocks when the process ends, however it ends. A shard
is written beside its place, renamed into it, and then recorded. So processes need not know of each other: those of a
dead one are taken over, and the same command given twice shares the work.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ediffi.data.index import INDEX, write_index
from ediffi.io.files import replace

ROOM = ".embedding"
REQUEST = "request.json"


class Ledger:
    """The records of a folder of shards in the making. Nothing is written before `begin`.

    Args:
        folder: where the finished shards go.
        count: how many shards there will be.
        request: plain JSON that says what the folder is for; kept in its index.

    Raises:
        ValueError: the folder is for something else, or holds shards that nobody recorded.
    """

    def __init__(self, folder: Path, count: int, request: Mapping[str, Any]) -> None:
        self.folder, self.count, self.request = folder, count, json.loads(json.dumps(request))
        self._room = folder / ROOM
        self._records: dict[int, dict[str, Any]] = {}
        if self.is_complete:
            self._compare(json.loads((folder / INDEX).read_text(encoding="utf-8")).get("request"))
            return
        if not self._room.is_dir() and any(folder.glob("*.tar")):
            raise ValueError(f"{folder} holds shards that were not made by this command; choose another folder")
        if (self._room / REQUEST).exists():
            self._claim()

    def begin(self) -> None:
        """Make the folder, and write down what it is for.

        Raises:
            ValueError: it is for something else.
            OSError: it cannot be written to, or cannot lock files.
        """
        if self.is_complete:
            return
        self._room.mkdir(parents=True, exist_ok=True)
        with self._locked(self._room / "request.lock", wait=True):
            self._claim()

    @property
    def is_complete(self) -> bool:
        """Whether the index is written: there is nothing left to do."""
        return (self.folder / INDEX).exists()

    def name(self, number: int) -> str:
        """The file of a shard."""
        return f"{number:05d}.tar"

    def records(self) -> dict[int, dict[str, Any]]:
        """What is recorded of the finished shards, by number."""
        with suppress(FileNotFoundError):  # the room is gone once the index is written
            for name in os.listdir(self._room):
                number, _, suffix = name.partition(".")
                if suffix == "json" and number.isdecimal() and int(number) not in self._records:
                    self._read(int(number))
        return self._records

    def pending(self) -> list[int]:
        """The shards that are not recorded yet."""
        if self.is_complete:
            return []
        done = self.records()
        return [number for number in range(self.count) if number not in done]

    @contextmanager
    def taken(self, number: int) -> Iterator[bool]:
        """Take a shard, if it is neither done nor another's."""
        with self._locked(self._room / f"{number:05d}.lock") as locked:
            yield locked and not self.is_complete and not self._read(number)

    def record(self, number: int, told: Mapping[str, Any]) -> None:
        """A shard is in its place."""
        replace(self._room / f"{number:05d}.json", json.dumps({"file": self.name(number), **told}).encode())
        self._read(number)

    def finish(self, description: Mapping[str, Any]) -> Path:
        """Write the index of all recorded shards; the records are no longer needed."""
        records = self.records()
        index = write_index(
            self.folder / INDEX,
            [records[number] for number in range(self.count)],
            {**description, "request": self.request},
        )
        shutil.rmtree(self._room, ignore_errors=True)
        return index

    def _read(self, number: int) -> bool:
        """Look for a record; one whose shard is gone, or has another size, does not count."""
        try:
            told = json.loads((self._room / f"{number:05d}.json").read_text(encoding="utf-8"))
            if (self.folder / told["file"]).stat().st_size == told["bytes"]:
                self._records[number] = told
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the record of {self.folder / self.name(number)} is broken: {error!r}") from None
        return number in self._records

    def _claim(self) -> None:
        path = self._room / REQUEST
        if not path.exists():
            replace(path, json.dumps(self.request, indent=1, ensure_ascii=False).encode())
        self._compare(json.loads(path.read_text(encoding="utf-8")))

    def _compare(self, found: Any) -> None:
        if found == self.request:
            return
        other = sorted(k for k in {*self.request, *(found or {})} if (found or {}).get(k) != self.request.get(k))
        raise ValueError(
            f"{self.folder} holds, or is getting, other shards than these ({', '.join(other)} differ); "
            "choose another folder or remove it"
        )

    @contextmanager
    def _locked(self, path: Path, wait: bool = False) -> Iterator[bool]:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the room is gone: somebody has finished
            yield False
            return
        try:
            yield _lock(handle, path, wait)
        finally:
            os.close(handle)


def _lock(handle: int, path: Path, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            message = "the file system cannot lock files, which keeps processes apart; choose another folder"
            raise OSError(error.errno, message, str(path.parent.parent)) from None
        raise
    return True
