"""Where shards are: files, folders, and URLs that fsspec opens (hf:// among them). Places are read, never run.

webdataset's own opener runs whatever follows `pipe:`, and calls command line programs for other schemes; it is not
used here.
"""

import glob
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

SCHEMES = ("abfs", "abfss", "az", "file", "gcs", "gs", "hdfs", "hf", "http", "https", "memory", "s3", "sftp")
"""What may stand before `://`; a scheme of somebody's cloud needs fsspec's package for it."""
MAX_PLACES = 1_000_000
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?\}")
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):(//)?")

T = TypeVar("T")


def expand(patterns: Sequence[str]) -> list[str]:
    """The shards that patterns name, in order.

    Args:
        patterns: files or URLs with braces ("in-{0000..0999}.tar") or wildcards, or folders, whose `.tar` files are
            taken by name.

    Raises:
        ValueError: a pattern names nothing, is broken, or is no place to read from; or a shard is named twice.
    """
    places: dict[str, None] = {}
    for pattern in patterns:
        for place in _listed(pattern):
            if place in places:
                raise ValueError(f"the shard {shown(place)!r} is named twice")
            places[place] = None
    if not places:
        raise ValueError(f"no shards in {', '.join(map(repr, patterns)) or 'an empty list'}")
    return list(places)


def check(place: str) -> None:
    """Make sure that a place can only be read.

    Raises:
        ValueError: it is a command (`pipe:`), a chain of file systems, or has a scheme that is not known here.
    """
    found = _SCHEME.match(place)
    if found and found[1].lower() == "pipe":
        raise ValueError(f"{place!r} is a command, and shards are only read; give files or URLs")
    if (found and found[2] and found[1] not in SCHEMES) or ("::" in place and is_remote(place)):
        raise ValueError(f"{shown(place)!r} is no place to read shards from; URLs begin with {', '.join(SCHEMES)}")
    if not place.strip() or "\0" in place:
        raise ValueError(f"{place!r} names no file")


def is_remote(place: str) -> bool:
    """Whether fsspec opens it; `file://` too."""
    return "://" in place


def join(folder: str, name: str) -> str:
    """The place of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


def parent(place: str) -> str:
    """The folder of a file."""
    return place.rpartition("/")[0] if is_remote(place) else str(Path(place).parent)


def shown(place: str) -> str:
    """The place without what should not be written down: a password, the signature of a link."""
    return re.sub(r"\?.*$", "", re.sub(r"//[^/@]*@", "//", place)) if is_remote(place) else place


@contextmanager
def opened(place: str) -> Iterator[BinaryIO]:
    """The file at a place, to be read from its beginning.

    Raises:
        OSError: it is not there, or cannot be opened; the message names it.
        ValueError: as `check`.
    """
    check(place)
    if not is_remote(place):
        with open(place, "rb", buffering=0) as local:
            yield local
        return
    system, path = _system(place)
    with asked(place, lambda: system.open(path, "rb")) as file:
        yield file


def size(place: str) -> int:
    """Bytes of a file; raises as `opened`."""
    check(place)
    if not is_remote(place):
        return Path(place).stat().st_size
    system, path = _system(place)
    return int(asked(place, lambda: system.size(path)) or 0)


def exists(place: str) -> bool:
    """Whether there is a file; raises as `opened` if nobody can tell."""
    check(place)
    if not is_remote(place):
        return Path(place).is_file()
    system, path = _system(place)
    return bool(asked(place, lambda: system.isfile(path)))


def is_folder(place: str) -> bool:
    """Whether it is a folder; a URL is one if it does not end in `.tar`."""
    check(place)
    return not shown(place).endswith(".tar") if is_remote(place) else Path(place).is_dir()


def read_bytes(place: str) -> bytes:
    """All of a file; raises as `opened`."""
    with opened(place) as file:
        return asked(place, file.read)


def sentence(place: str, error: OSError) -> str:
    """What is wrong with a place, in words."""
    return f"{shown(place)}: {error.strerror}" if error.filename and error.strerror else str(error)


def asked(place: str, question: Callable[[], T]) -> T:
    """What a file system answers; whatever goes wrong at the other end is an OSError that names the place."""
    try:
        return question()
    except Exception as error:
        if not is_remote(place):
            raise
        why = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, FileNotFoundError) and why.strip("'/") in place:
            why = "no such file"
        raise OSError(f"{shown(place)} cannot be read: {why}") from error


def _listed(pattern: str) -> Iterator[str]:
    from braceexpand import braceexpand

    check(pattern)
    spans = [abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern)]
    if math.prod(spans) > MAX_PLACES:  # before anything makes a list of them
        raise ValueError(f"{pattern!r} names more than {MAX_PLACES:,} shards")
    try:
        names = list(islice(braceexpand(pattern), MAX_PLACES + 1)) if "{" in pattern else [pattern]
    except ValueError as error:
        raise ValueError(f"{pattern!r} has braces that do not fit: {error}") from None
    if len(names) > MAX_PLACES:
        raise ValueError(f"{pattern!r} names more than {MAX_PLACES:,} shards")
    for name in names:
        check(name)
        if not name.endswith(".tar") and is_folder(name):
            found = _matches(join(glob.escape(name), "*.tar"))
            if not found:
                raise ValueError(f"no .tar files in {shown(name)}")
            yield from found
        elif any(sign in shown(name) for sign in "*?[") and not (not is_remote(name) and Path(name).exists()):
            yield from _matches(name)
        else:
            yield name if is_remote(name) else str(Path(name))


def _matches(pattern: str) -> list[str]:
    if not is_remote(pattern):
        return sorted(glob.glob(pattern))
    system, path = _system(pattern)
    return sorted(system.unstrip_protocol(name) for name in asked(pattern, lambda: system.glob(path)))


def _system(place: str) -> tuple[Any, str]:
    import fsspec  # type: ignore[import-untyped]

    try:
        system, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise ValueError(f"{shown(place)} cannot be opened here: {error}") from None
    except Exception as error:
        raise OSError(f"{shown(place)} cannot be opened: {str(error).partition(chr(10))[0]}") from error
    return system, str(path)
