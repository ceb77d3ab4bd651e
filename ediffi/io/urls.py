"""Files to read, named by a local path or a URL that fsspec opens (hf:// among them).

webdataset's own opener runs whatever follows `pipe:`, and calls command line programs for other
schemes; it is not used here.
"""

import glob
import io
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ediffi.io import files
from ediffi.io.retries import LASTING, RetriedFile, retried

SCHEMES = ("abfs", "abfss", "az", "file", "gcs", "gs", "hdfs", "hf", "http", "https", "memory", "s3", "sftp")
"""What may stand before `://`; the schemes of clouds need fsspec's package for them."""
RENAMING = ("hdfs://", "sftp://")
"""Stores that show a file while it is written."""
MAX_SHARDS = 1_000_000
BUFFER = 1 << 20
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?\}")
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):(//)?")


def expand(patterns: Sequence[str]) -> list[str]:
    """The paths and URLs of the shards that patterns name, in order. A pattern is a path or URL with braces
    ("in-{0000..0999}.tar") or wildcards, or a folder, whose `.tar` files are taken by name. ValueError: a pattern names
    nothing, is broken, or cannot be read from; or a shard is named twice."""
    shards: dict[str, None] = {}
    for url in (url for pattern in patterns for url in _expanded(pattern)):
        if url in shards:
            raise ValueError(f"the shard {redact(url)!r} is named twice")
        shards[url] = None
    if not shards:
        raise ValueError(f"no shards in {', '.join(map(repr, patterns)) or 'an empty list'}")
    return list(shards)


def check(url: str) -> None:
    """ValueError if a path or URL is a command (`pipe:`), a chain of file systems, or has a scheme that is not in
    `SCHEMES`."""
    found = _SCHEME.match(url)
    if found and found[1].lower() == "pipe":
        raise ValueError(f"{url!r} is a command; give a file or a URL")
    if (found and found[2] and found[1] not in SCHEMES) or ("::" in url and is_remote(url)):
        schemes = ", ".join(SCHEMES)
        raise ValueError(f"shards cannot be read from {redact(url)!r}; the scheme of a URL is one of {schemes}")
    if not url.strip() or "\0" in url:
        raise ValueError(f"{url!r} names no file")


def is_remote(url: str) -> bool:
    """Whether fsspec opens it; true for `file://` too."""
    return "://" in url


def join(folder: str, name: str) -> str:
    """The path or URL of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


def parent(url: str) -> str:
    """The folder of a file."""
    return url.rpartition("/")[0] if is_remote(url) else str(Path(url).parent)


def redact(url: str) -> str:
    """The URL without its password and query (which may be a signature), for messages and files."""
    return re.sub(r"\?.*$", "", re.sub(r"//[^/@]*@", "//", url)) if is_remote(url) else url


@contextmanager
def open_binary(url: str) -> Iterator[io.BufferedReader]:
    """Open a file for reading, from its beginning, with a buffer. A read that fails is tried again (`io.retries`).
    OSError: none of the tries succeeded; it names the file. ValueError: as `check`."""
    check(url)
    raw: Any = RetriedFile(lambda: _open(url), redact(url), lambda: naming_errors(url))
    with io.BufferedReader(raw, BUFFER) as file:
        yield file


def read_bytes(url: str) -> bytes:
    """The whole content of a file; raises as `open_binary`."""
    with open_binary(url) as file:
        return file.read()


def size(url: str) -> int:
    """Bytes of a file; raises as `open_binary`."""
    check(url)
    if not is_remote(url):
        return Path(url).stat().st_size
    system, path = _file_system(url)
    with naming_errors(url):
        return int(system.size(path) or 0)


def exists(url: str) -> bool:
    """Whether there is such a file; raises as `open_binary` where a server cannot be asked."""
    check(url)
    if not is_remote(url):
        return Path(url).is_file()
    system, path = _file_system(url)
    with naming_errors(url):
        return bool(system.isfile(path))


@contextmanager
def placing(url: str) -> Iterator[Path]:
    """A local path to write to. What is there takes its place at a path or URL when the block ends without an error, as
    a whole: by `files.replacing`, or copied to the store. Raises as `open_binary`."""
    check(url)
    place = _local(url)
    if place is not None:
        if is_remote(url):
            place.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(place) as beside:
            yield beside
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        yield path
        retried(lambda: _put(path, url), redact(url))


def write_bytes(url: str, content: bytes | str) -> None:
    """Write a file through `placing`; text as UTF-8."""
    with placing(url) as path:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def names(folder: str) -> list[str]:
    """The names of the files in a folder; none if it is not there. Raises as `open_binary`."""
    if not is_remote(folder):
        return os.listdir(folder) if Path(folder).is_dir() else []
    system, path = _file_system(folder)
    with naming_errors(folder):
        system.invalidate_cache(path)
        try:
            return [str(name).rstrip("/").rpartition("/")[2] for name in system.ls(path, detail=False)]
        except FileNotFoundError:
            return []


def remove_folder(folder: str) -> None:
    """Remove a folder with its files, as far as that is possible."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    system, path = _file_system(folder)
    with suppress(Exception):  # what a store keeps does no harm
        system.rm(path, recursive=True)


def describe_error(url: str, error: OSError) -> str:
    """An error of reading a file, in one sentence that names the file."""
    return f"{redact(url)}: {error.strerror}" if error.filename and error.strerror else str(error)


@contextmanager
def naming_errors(url: str) -> Iterator[None]:
    """Turn any error of a remote file system into an OSError that names the URL; local errors do already."""
    try:
        yield
    except Exception as error:
        if not is_remote(url):
            raise
        why = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, FileNotFoundError):
            why = "no such file"
        kind = next((kind for kind in LASTING if isinstance(error, kind)), OSError)
        raise kind(f"{redact(url)} cannot be read: {why}") from error


def _local(url: str) -> Path | None:
    """The path of a local file, also of a `file://` URL."""
    if is_remote(url) and not url.startswith("file://"):
        return None
    return Path(_file_system(url)[1] if is_remote(url) else url)


def _put(path: Path, url: str) -> None:
    """Copy a file to a store. Those of clouds show it as a whole; elsewhere it is renamed into its place."""
    system, place = _file_system(url)
    beside = f"{place}.tmp" if url.startswith(RENAMING) else place
    with naming_errors(url):
        system.makedirs(system._parent(place), exist_ok=True)
        system.put_file(str(path), beside)
        if beside != place:
            system.mv(beside, place)


def _open(url: str) -> Any:
    """The file, without a buffer."""
    if not is_remote(url):
        if Path(url).exists() and not Path(url).is_file():  # a pipe or a device may have no end
            raise IsADirectoryError(f"{url} is a folder, a pipe or a device, and no file")
        return open(url, "rb", buffering=0)
    system, path = _file_system(url)
    return system.open(path, "rb")


def _expanded(pattern: str) -> Iterator[str]:
    from braceexpand import braceexpand

    check(pattern)
    spans = [abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern)]
    too_many = ValueError(f"{pattern!r} names more than {MAX_SHARDS:,} shards")
    if math.prod(spans) > MAX_SHARDS:  # checked first: braceexpand makes a list of each range
        raise too_many
    try:
        urls = list(islice(braceexpand(pattern), MAX_SHARDS + 1)) if "{" in pattern else [pattern]
    except ValueError as error:
        raise ValueError(f"{pattern!r} has unbalanced braces: {error}") from None
    if len(urls) > MAX_SHARDS:
        raise too_many
    for url in urls:
        check(url)
        is_folder = not redact(url).endswith(".tar") if is_remote(url) else Path(url).is_dir()
        if not url.endswith(".tar") and is_folder:
            found = _matches(join(glob.escape(url), "*.tar"))
            if not found:
                raise ValueError(f"no .tar files in {redact(url)}")
            yield from found
        elif any(sign in redact(url) for sign in "*?[") and (is_remote(url) or not Path(url).exists()):
            yield from _matches(url)
        else:
            yield url if is_remote(url) else str(Path(url))


def _matches(pattern: str) -> list[str]:
    if not is_remote(pattern):
        return sorted(glob.glob(pattern))
    system, path = _file_system(pattern)
    with naming_errors(pattern):
        return sorted(map(system.unstrip_protocol, system.glob(path)))


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec  # type: ignore[import-untyped]

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{redact(url)} cannot be opened: {error}") from None
    except Exception as error:
        raise OSError(f"{redact(url)} cannot be opened: {str(error).partition(chr(10))[0]}") from error
    return system, str(path)
