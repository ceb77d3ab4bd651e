"""Reading that is tried again: a network file system or a store may fail for a moment, in the middle of a long run."""

import errno
import io
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

PAUSES = (1.0, 4.0, 15.0)
"""Seconds before each further try."""
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
NUMBERS = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
"""Errors that waiting does not mend: by class, and by number where they have none."""

logger = logging.getLogger(__name__)
T = TypeVar("T")
Errors = AbstractContextManager[None]


def retried(action: Callable[[], T], name: str) -> T:
    """The result of an action, tried again after an OSError that may pass, with a warning that says `name`."""
    for pause in PAUSES:
        try:
            return action()
        except LASTING:
            raise
        except OSError as error:
            if error.errno in NUMBERS:
                raise
            told = str(error) if name in str(error) else f"{name}: {error.strerror or error}"
            logger.warning("%s; trying again in %g s", told, pause)
            time.sleep(pause)
    return action()


class RetriedFile(io.RawIOBase):
    """The bytes of a file, from its beginning. After a failed read the file is opened anew, and read on from where it
    was. `errors` is a context that turns the errors of a store into OSErrors. OSError: the last try failed too."""

    def __init__(self, opened: Callable[[], Any], name: str, errors: Callable[[], Errors] = nullcontext) -> None:
        self._opened, self._name, self._errors = opened, name, errors
        self._position = 0
        self._raw: Any = None
        retried(self._open, name)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes; returns their number, 0 at the end."""
        count = retried(lambda: self._read(buffer), self._name)
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._forget()
        super().close()

    def _open(self) -> Any:
        if self._raw is None:
            with self._errors():
                raw = self._opened()
                if self._position:
                    raw.seek(self._position)
            self._raw = raw
        return self._raw

    def _read(self, buffer: Any) -> int:
        raw = self._open()
        try:
            with self._errors():
                return int(raw.readinto(buffer))
        except OSError:
            self._forget()
            raise

    def _forget(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()
