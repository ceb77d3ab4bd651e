"""Images in the tars of any program: WebDataset shards, as img2dataset writes them. Members are read where they are."""

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from ediffi.io.images import open_image

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""How names of images end."""


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    tar: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its content."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.tar.name}/{self.name}"


@dataclass(frozen=True)
class TarImages:
    """`NumberedImages` that are members of tars."""

    members: Sequence[Member]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Image.Image:
        return open_image(self.members[index].read(), self.name(index))

    def name(self, index: int) -> str:
        """Its tar, and its name there: `00000.tar/000000007.jpg`."""
        return str(self.members[index])

    def fingerprint(self) -> str:
        """SHA-256 over names and contents of the images."""
        digest = hashlib.sha256()
        for member in self.members:
            digest.update(f"{member.name}\0{hashlib.sha256(member.read()).hexdigest()}\n".encode())
        return digest.hexdigest()


def members_of(tars: Iterable[Path], wanted: Callable[[str], bool]) -> list[Member]:
    """The plain files in tars whose names are `wanted`. ValueError names a tar that is broken."""
    found = []
    for tar in tars:
        try:
            with tarfile.open(tar, "r:") as archive:
                entries = [entry for entry in archive if entry.isreg() and not entry.issparse() and wanted(entry.name)]
                # tarfile takes the end of a file that was cut off in a member for the end of the archive.
                if archive.offset + tarfile.BLOCKSIZE > tar.stat().st_size:
                    raise tarfile.ReadError("it is cut off: there is no end mark")
        except tarfile.TarError as error:
            raise ValueError(f"{tar} is a broken shard: {error}; shards are plain tars, not compressed") from None
        found += [Member(tar, entry.name, entry.offset_data, entry.size) for entry in entries]
    return found


def is_image(name: str) -> bool:
    """Whether a name is an image's; hidden files are none."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and path.name[0] != "."


def samples(members: Iterable[Member]) -> Mapping[str, Mapping[str, Member]]:
    """Members by sample and suffix: `00/7.cap.jpg` is "cap.jpg" of the sample "00/7", as WebDataset reads it.

    ValueError: a sample has a suffix twice, in one tar or in two.
    """
    found: dict[str, dict[str, Member]] = {}
    for member in members:
        key, suffix = split(member.name)
        if suffix in (sample := found.setdefault(key, {})):
            raise ValueError(f"the sample {key!r} has .{suffix} twice: in {sample[suffix]} and in {member}")
        sample[suffix] = member
    return found


def split(name: str) -> tuple[str, str]:
    """The sample and the suffix of a member's name."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix.lower()
