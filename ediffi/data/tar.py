"""Samples of a tar as they come, from anybody: read in one pass, hashed on the way, and never trusted.

The members of a sample stand together and share the name before the first dot (webdataset's convention). Only members
with a suffix of `SUFFIXES` are read; links, devices, sparse files and names that leave the folder are skipped. What is
skipped, dropped or broken is counted in a `Tally`, so that nothing is lost in silence.
"""

import hashlib
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from ediffi.io.urls import naming_errors, open_binary, redact

PICTURES = ("png", "jpg", "jpeg", "webp")
SUFFIXES = frozenset({*PICTURES, "npy", "json", "txt", "safetensors"})
MAX_MEMBER = 256 << 20
"""Bytes of a member; longer ones are skipped."""
MAX_HEADER = 64 << 10
"""Bytes of a member's header with all its extensions; a longer one breaks the tar."""
CHUNK = 1 << 20
MANY = 50

Raw = dict[str, Any]
"""An undecoded sample: bytes by suffix, and its `__key__`."""

Lack = Callable[[Raw], str | None]
"""What a sample lacks to be used ("no caption"), or None."""


@dataclass
class Tally:
    """What reading came to, of one shard or of many.

    Attributes:
        samples: complete ones.
        bytes: of the shards.
        dropped: samples that were not used, by reason.
        skipped: members that were not read, by reason.
        broken: what is wrong with the shards themselves, a sentence each.
        sha256: of the shard, once it is read to its end; empty for several.
    """

    samples: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    sha256: str = ""

    def add(self, other: "Tally") -> None:
        """Count another shard in."""
        self.samples += other.samples
        self.bytes += other.bytes
        self.dropped.update(other.dropped)
        self.skipped.update(other.skipped)
        self.broken.extend(other.broken)
        self.sha256 = ""

    def told(self) -> dict[str, Any]:
        """The losses as plain JSON; only what there is."""
        losses = {"dropped": dict(self.dropped), "skipped": dict(self.skipped), "broken": self.broken}
        return {name: loss for name, loss in losses.items() if loss}


def read_samples(place: str, tally: Tally, lacks: Lack) -> Iterator[Raw]:
    """The samples of a shard that lack nothing, in order, undecoded.

    A sample is whole once the next one begins or the tar ends as tars do. So the last sample of a tar that is cut off
    is dropped, also where the cut is between two samples: nobody can tell that it has all its members.

    Args:
        place: a file or URL.
        tally: counts what is read; complete after the last sample.
        lacks: says why a sample cannot be used.

    Raises:
        OSError: the place cannot be read.
        ValueError: it is no place to read from.
    """
    keys: set[str] = set()
    for raw, whole in _grouped(_members(place, tally), tally):
        reason = raw.pop("__bad__", None) or ("key twice" if raw["__key__"] in keys else None)
        reason = reason or (lacks(raw) if whole else "cut off")
        keys.add(raw["__key__"])
        if reason is None:
            tally.samples += 1
            yield raw
        else:
            tally.dropped[reason] += 1


def _grouped(members: Iterator[tuple[str, str, bytes]], tally: Tally) -> Iterator[tuple[Raw, bool]]:
    """Samples, and whether all that belongs to them has been seen."""
    current: Raw | None = None
    for key, suffix, data in members:
        if current is not None and key != current["__key__"]:
            yield current, True
            current = None
        current = current or {"__key__": key}
        if suffix in current:
            current["__bad__"] = "member twice"
        current[suffix] = data
    if current is not None:
        yield current, not tally.broken


def _members(place: str, tally: Tally) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and content of each member that may be read."""
    with open_binary(place) as file:
        hashed = _Hashed(file, place)
        stream = _Stream(io.BufferedReader(hashed, CHUNK))
        try:
            yield from _walk(stream, place, tally)
            behind = stream.rest()
            tally.skipped.update(["data behind the end of a tar"] if behind and not tally.broken else [])
            tally.sha256 = hashed.digest.hexdigest()
        finally:
            tally.bytes += stream.offset


def _walk(stream: "_Stream", place: str, tally: Tally) -> Iterator[tuple[str, str, bytes]]:
    archive = stream.archive()
    while (info := _next(archive, stream, place, tally)) is not None:
        name = None if info.isdir() else _split(info, tally)
        if name is not None:
            data = stream.data(info.size)
            if len(data) == info.size:
                yield *name, data
        if not stream.forward(archive.offset):
            tally.broken.append(f"{redact(place)} ends within {info.name!r}")
            return


def _next(archive: tarfile.TarFile, stream: "_Stream", place: str, tally: Tally) -> tarfile.TarInfo | None:
    """The next member; None at the end, whether it is a proper one or not.

    Not `TarFile.next`, which takes a damaged header for the end of the archive.
    """
    begin = stream.begin()
    try:
        info = _Member.fromtarfile(archive)
        if info.size < 0 or archive.offset < stream.offset:
            raise tarfile.HeaderError("a negative size")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
        tally.broken.append(f"{redact(place)} is {'cut off' if begin else 'empty'}: it ends without an end mark")
        return None
    except (tarfile.TarError, ValueError, IndexError, OverflowError) as error:
        tally.broken.append(f"{redact(place)} is broken at byte {begin}: {error}")
        return None
    return info


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
        reason = reason if reason in tally.skipped or len(tally.skipped) < MANY else "suffix not read"
    elif info.size > MAX_MEMBER:
        reason = f"more than {MAX_MEMBER >> 20} MiB"
    else:
        return found[1], suffix
    tally.skipped[reason] += 1
    return None


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: Any, place: str) -> None:
        self._file, self._place = file, place
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with naming_errors(self._place):
            read = self._file.readinto(buffer) or 0
        self.digest.update(memoryview(buffer)[:read])
        return int(read)


class _Member(tarfile.TarInfo):
    """A member whose header is read for name and size only, if it is that of a plain file: most are, and reading all
    fields takes longer than reading the file.
    """

    @classmethod
    def frombuf(cls, buf: Any, encoding: str | None, errors: str) -> "_Member":
        plain = _PLAIN.fullmatch(buf)
        if plain is None or sum(buf) - sum(plain[3]) + 8 * ord(" ") != int(plain[3].strip(b" \0"), 8):
            return super().frombuf(buf, encoding or "utf-8", errors)
        info = cls(plain[1].decode("utf-8", errors))
        info.size, info.type = int(plain[2], 8), tarfile.REGTYPE
        return info


_PLAIN = re.compile(rb"(?s:([^\0]{1,100})\0*.{24}([0-7]{11})[\0 ].{12}([0-7]{6}[\0 ]{2})0.{188}\0.{166})")
"""A header as POSIX ustar has it: name, size and checksum; a plain file, whose name needs no prefix."""


class _Stream:
    """What a tar is read from; tarfile, which reads the headers, gets no more than a header may have."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._read, self.offset, self._left = file.read, 0, MAX_HEADER

    def archive(self) -> tarfile.TarFile:
        """An archive whose members are read one by one by `TarInfo.fromtarfile`; it begins as an empty one."""
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
        read = self._read(count)
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
