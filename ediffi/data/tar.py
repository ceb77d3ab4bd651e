"""The samples of a tar from any source, read in one pass and hashed on the way. Nothing in it is trusted.

The members of a sample are neighbours and share the name before the first dot (webdataset's convention). Only members
with a suffix of `SUFFIXES` are read; links, devices, sparse files and unsafe names are skipped. A `Tally` counts
whatever is skipped, dropped or broken, so that nothing is lost silently.
"""

import hashlib
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar, cast

from ediffi.io.progress import Progress
from ediffi.io.urls import open_binary, redact

IMAGES = ("png", "jpg", "jpeg", "webp")
SUFFIXES = frozenset({*IMAGES, "npy", "json", "txt", "safetensors"})
MAX_MEMBER = 256 << 20  # bytes of a member; longer ones are skipped
MAX_HEADER = 64 << 10  # bytes of a member's header with all its extensions; a longer one breaks the tar
CHUNK = 1 << 20
READERS = 4
COMPRESSED = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ", "zstandard": b"\x28\xb5\x2f\xfd"}
"""How compressed files begin."""
T = TypeVar("T")
MAX_REASONS = 50  # different suffixes that are counted by name

RawSample = dict[str, Any]  # an undecoded sample: bytes by suffix, and its `__key__`

Reject = Callable[[RawSample], str | None]  # why a sample cannot be used ("no caption"), or None


@dataclass
class Tally:
    """Counts of what was read, of one shard or of many."""

    samples: int = 0  # complete ones
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # samples that were not used, by reason
    skipped: Counter[str] = field(default_factory=Counter)  # members that were not read, by reason
    broken: list[str] = field(default_factory=list)  # what is damaged in the shards themselves, one sentence each
    sha256: str = ""  # of one shard, once it is read to its end

    def add(self, other: "Tally") -> None:
        """Add the counts of another shard."""
        self.samples += other.samples
        self.bytes += other.bytes
        self.dropped.update(other.dropped)
        self.skipped.update(other.skipped)
        self.broken.extend(other.broken)
        self.sha256 = ""

    def losses(self) -> dict[str, Any]:
        """What was dropped, skipped or broken, as plain JSON; only what is not empty."""
        losses = {"dropped": dict(self.dropped), "skipped": dict(self.skipped), "broken": self.broken}
        return {name: loss for name, loss in losses.items() if loss}


def each_shard(function: Callable[[str], T], shards: Sequence[str], title: str) -> Iterator[T]:
    """The result of a function for each shard, in order, computed by a few threads under a progress bar."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from Progress(pool.map(function, shards), total=len(shards), unit="shard", desc=title)


def read_samples(url: str, tally: Tally, reject: Reject) -> Iterator[RawSample]:
    """The usable samples of a shard, in order, undecoded; `tally` is complete after the last one. A sample is complete
    once the next one begins or the tar has its end mark. So the last sample of a truncated tar is dropped, also where
    the cut is between two samples: more members could have followed. OSError: the file cannot be read."""
    keys: set[str] = set()
    for key, members in groupby(_members(url, tally), key=itemgetter(0)):
        raw: RawSample = {"__key__": key}
        problem = "key twice" if key in keys else None
        for _, suffix, data in members:
            if suffix in raw:
                problem = "member twice"
            raw[suffix] = data
        keys.add(key)
        problem = problem or ("cut off" if tally.broken else reject(raw))
        if problem is None:
            tally.samples += 1
            yield raw
        else:
            tally.dropped[problem] += 1


def _members(url: str, tally: Tally) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and content of each member that may be read."""
    with open_binary(url) as file:
        stream = _Stream(file, url)
        archive = stream.archive()
        try:
            while (info := _next(archive, stream, tally)) is not None:
                name = None if info.isdir() else _split(info, tally)
                if name is not None:
                    data = stream.data(info.size)
                    if len(data) == info.size:
                        yield *name, data
                if not stream.forward(archive.offset):
                    tally.broken.append(f"{redact(url)} ends within {info.name!r}")
                    break
            if stream.rest() and not tally.broken:
                tally.skipped["data behind the end of a tar"] += 1
            tally.sha256 = stream.digest.hexdigest()
        finally:
            tally.bytes += stream.offset


def _next(archive: tarfile.TarFile, stream: "_Stream", tally: Tally) -> tarfile.TarInfo | None:
    """The next member; None at the end, which is noted if it is not a proper one. Not `TarFile.next`, which takes a
    damaged header for the end of the archive."""
    begin = stream.begin()
    try:
        info = _Member.fromtarfile(archive)
        if info.size < 0 or archive.offset < stream.offset:
            raise tarfile.HeaderError("a negative size")
        return info
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
        problem = f"is {'cut off' if begin else 'empty'}: it ends without an end mark"
    except (tarfile.TarError, ValueError, IndexError, OverflowError) as error:
        problem = f"is broken at byte {begin}: {error}"
        if kind := next((kind for kind, magic in COMPRESSED.items() if stream.beginning.startswith(magic)), None):
            problem = f"is compressed with {kind}; shards are plain tars: unpack it"
    tally.broken.append(f"{redact(stream.url)} {problem}")
    return None


_NAME = re.compile(r"((?:[^/]+/)*[^/.]+)\.([^/]+)")


def _split(info: tarfile.TarInfo, tally: Tally) -> tuple[str, str] | None:
    """Key and suffix of a member, or None for one that is not to be read."""
    name = info.name.removeprefix("./")
    found = _NAME.fullmatch(name)
    suffix = found[2].lower() if found else ""
    if not info.isreg() or info.issparse():
        reason = "link, device or sparse file"
    elif "\\" in name or not name.isprintable() or ".." in name.split("/") or name.startswith("/"):
        reason = "unsafe name"
    elif found is None or suffix not in SUFFIXES:
        reason = f"suffix .{suffix[:16]} not read" if suffix.isalnum() and suffix.isascii() else "suffix not read"
        reason = reason if reason in tally.skipped or len(tally.skipped) < MAX_REASONS else "suffix not read"
    elif info.size > MAX_MEMBER:
        reason = f"more than {MAX_MEMBER >> 20} MiB"
    else:
        return found[1], suffix
    tally.skipped[reason] += 1
    return None


class _Member(tarfile.TarInfo):
    """A member. Of a plain file's header only name and size are parsed: all fields take longer than the file itself."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str | None, errors: str) -> "_Member":
        plain = _PLAIN.fullmatch(buf)
        if plain is None or sum(buf) - sum(plain[3]) + 8 * ord(" ") != int(plain[3].strip(b" \0"), 8):
            return super().frombuf(buf, encoding or "utf-8", errors)
        info = cls(plain[1].decode("utf-8", errors))
        info.size, info.type = int(plain[2], 8), tarfile.REGTYPE
        return info


_PLAIN = re.compile(rb"(?s:([^\0]{1,100})\0*.{24}([0-7]{11})[\0 ].{12}([0-7]{6}[\0 ]{2})0.{188}\0.{166})")
"""A POSIX ustar header: name, size and checksum of a plain file whose name needs no prefix."""


class _Stream:
    """The bytes of a tar, hashed as they are read. tarfile parses the headers, each of at most `MAX_HEADER` bytes."""

    def __init__(self, file: io.BufferedReader, url: str) -> None:
        self._file, self.url, self.offset, self._left = file, url, 0, MAX_HEADER
        self.digest = hashlib.sha256()
        self.beginning = b""

    def archive(self) -> tarfile.TarFile:
        """An archive whose members `TarInfo.fromtarfile` reads one by one; it is opened on an empty tar."""
        archive = tarfile.TarFile(fileobj=io.BytesIO(bytes(tarfile.RECORDSIZE)))
        archive.fileobj = cast(Any, self)
        return archive

    def begin(self) -> int:
        """A new header begins here."""
        self._left = MAX_HEADER
        return self.offset

    def tell(self) -> int:
        return self.offset

    def read(self, count: int) -> bytes:
        """A part of a header."""
        self._left -= count
        if count < 0 or self._left < 0:
            raise tarfile.HeaderError(f"a header of more than {MAX_HEADER >> 10} KiB")
        return self.data(count)

    def data(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        read = self._file.read(count)
        self.digest.update(read)
        self.beginning = self.beginning or read[:8]
        self.offset += len(read)
        return read

    def forward(self, offset: int) -> bool:
        """Read up to an offset; False if the end comes first."""
        while self.offset < offset:
            if not self.data(min(offset - self.offset, CHUNK)):
                return False
        return True

    def rest(self) -> bool:
        """Read to the end; whether anything but padding was left."""
        found = False
        while chunk := self.data(CHUNK):
            found = found or chunk.count(0) != len(chunk)
        return found
