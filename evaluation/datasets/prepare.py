"""What of a data set is there, and what has to be downloaded from where; nothing is downloaded or changed here.

Sizes and hashes of archives are those that tensorflow/datasets (COCO) and huggingface/datasets (Visual Genome) recorded
when they downloaded them; where neither has one, none is given. What is unpacked is checked against the annotations.
"""

import functools
import shlex
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from PIL import Image
from tqdm import tqdm

from ediffi.evaluation.datasets import coco, visual_genome
from ediffi.evaluation.datasets.captioned import CaptionedPictures
from ediffi.io.files import sha256
from ediffi.io.images import open_image

ODD_SHARE: Final = 1 / 1000
"""Up to this share of the pictures may have another shape than the annotations say: they err, too. More are refused."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        complete: whether the data set can be used.
        lines: to be printed: what is there, what is missing, what to download.
    """

    complete: bool
    lines: Sequence[str]


@dataclass(frozen=True)
class Archive:
    """A zip file of a data set.

    Attributes:
        url: where it is.
        unpacks: what it unpacks that is needed, relative to the folder of the data set.
        size: in bytes, if it is known.
        sha256: as a hexadecimal number, if it is known.
    """

    url: str
    unpacks: str
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[1]


@runtime_checkable
class Photographs(CaptionedPictures, Protocol):
    """What is checked of a data set that was read.

    Attributes:
        shapes: width and height of each picture, as announced.
    """

    shapes: Mapping[str, tuple[int, int]]

    def path(self, picture: str) -> Path:
        """Where a picture is, or should be."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set as published.

    Attributes:
        title: its name for people.
        archives: what it comes in.
        read: opens it in a folder.
        pictures: how many it has.
        captions: how many it has, if that is known.
    """

    title: str
    archives: Sequence[Archive]
    read: Callable[[Path], Photographs]
    pictures: int
    captions: int | None = None


SOURCES: Final[Mapping[str, Source]] = {
    "coco2014": Source(
        "COCO 2014 validation",
        (
            Archive(
                "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
                f"annotations/{coco.FILE}",
                252_872_794,
                "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
            ),
            Archive(
                "http://images.cocodataset.org/zips/val2014.zip",
                coco.FOLDER,
                6_645_013_297,
                "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            ),
        ),
        coco.Coco.open,
        pictures=40_504,
        captions=202_654,
    ),
    "visual-genome": Source(
        "Visual Genome",
        (
            Archive(
                f"https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/{visual_genome.IMAGES}.zip",
                visual_genome.IMAGES,
            ),
            Archive(
                f"https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/{visual_genome.REGIONS}.zip",
                visual_genome.REGIONS,
            ),
            Archive(
                "https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip",
                visual_genome.FOLDERS[0],
                9_731_705_982,
                "51c682d2721f880150720bb416e0346a4c787e4c55d7f80dfd1bd3f73ba81646",
            ),
            Archive(
                "https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip",
                visual_genome.FOLDERS[1],
                5_471_658_058,
                "99da1a0ddf87011319ff3b05cf9176ffee2731cc3c52951162d9ef0d68e3cfb5",
            ),
        ),
        functools.partial(visual_genome.VisualGenome.open, exclude_coco=False),
        # Of 108,077, less those that are known to be corrupt.
        pictures=108_077 - len(visual_genome.CORRUPT),
    ),
}


def prepare(name: str, root: Path, thorough: bool = False) -> Report:
    """Check what of a data set is in a folder, and say what to download.

    Args:
        name: "coco2014" or "visual-genome".
        root: the folder; need not exist.
        thorough: also decode every picture, and compute the hashes of archives that have to be unpacked: minutes.

    Raises:
        ValueError: there is no such data set, or `root` is a file.
    """
    if name not in SOURCES:
        raise ValueError(f"no data set {name!r} to prepare; allowed: {', '.join(SOURCES)}")
    return check(SOURCES[name], root, thorough)


def check(source: Source, root: Path, thorough: bool = False) -> Report:
    """Check what of a published data set is in a folder; see `prepare`."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; the folder of the data set is needed")
    lines = [f"{source.title} in {root.resolve()}"]
    again = [archive for archive in source.archives if not _unpacked(archive, root)]
    lines += [f"  missing: {archive.unpacks}" for archive in again]
    if not again:
        findings, again = _inspect(source, root, thorough)
        lines += findings
    for archive in again:
        lines += _how_to_get(archive, root, thorough)
    return Report(not again, [*lines, "incomplete" if again else "complete"])


def _inspect(source: Source, root: Path, thorough: bool) -> tuple[list[str], list[Archive]]:
    """What is to be said of data that are unpacked, and the archives that have to be unpacked again."""
    annotations = [archive for archive in source.archives if archive.unpacks.endswith(".json")]
    try:
        found = source.read(root)
    except (OSError, ValueError) as error:
        return [f"  wrong: {error}"], annotations
    wrong = _counts(source, found)
    unusable, odd = _pictures(found, thorough)
    lines = [f"  there: {len(found.items()):,} captions, {len(found.shapes) - len(unusable):,} pictures"]
    lines += [f"  wrong: {line}" for line in wrong]
    lines += [f"  wrong: missing or broken, {_some(unusable)}"] if unusable else []
    tolerated = len(odd) <= ODD_SHARE * len(found.shapes)
    verdict = "odd" if tolerated else "wrong"
    lines += [f"  {verdict}: of another shape than announced, {_some(odd)}"] if odd else []
    folders = {found.path(name).parent.name for name in [*unusable, *([] if tolerated else odd)]}
    again = [*(annotations if wrong else []), *(archive for archive in source.archives if archive.unpacks in folders)]
    return lines, again


def _unpacked(archive: Archive, root: Path) -> bool:
    if Path(archive.unpacks).name == coco.FILE:
        return coco.find(root) is not None
    return (root / archive.unpacks).exists()


def _how_to_get(archive: Archive, root: Path, thorough: bool) -> list[str]:
    """How to come by what an archive holds, from what there is of it."""
    here = root / archive.name
    known = "" if archive.size is None else f", {archive.size:,} bytes"
    hashed = "" if archive.sha256 is None else f", sha256 {archive.sha256}"
    place, unpack = shlex.quote(str(here)), f"    unzip -o {shlex.quote(str(here))} -d {shlex.quote(str(root))}"
    fetch = [
        f"  download: {archive.url}{known}{hashed}",
        f"    curl --create-dirs -L -C - -o {place} {archive.url}",
        unpack,
    ]
    if not here.is_file():
        return fetch
    size = here.stat().st_size
    if archive.size is not None and size < archive.size:
        return [f"  wrong size: {here.name} has {size:,} of {archive.size:,} bytes; go on with the download", *fetch]
    if archive.size is None and not zipfile.is_zipfile(here):
        return [f"  wrong: {here.name}, {size:,} bytes, is no whole archive; go on with the download", *fetch]
    larger = archive.size is not None and size > archive.size
    if larger or (thorough and archive.sha256 is not None and sha256(here) != archive.sha256):
        return [f"  wrong: {here.name}, {size:,} bytes, is not what was published; remove it", *fetch]
    return [f"  downloaded: {here.name}; unpack it", unpack]


def _counts(source: Source, found: Photographs) -> list[str]:
    """What the annotations have other than as published."""
    captions = len(found.items()) + found.protocol.get("blank_captions_left_out", 0)
    counts = [("pictures", len(found.shapes), source.pictures), ("captions", captions, source.captions)]
    return [
        f"the annotations have {here:,} {what}, and {published:,} were published"
        for what, here, published in counts
        if published is not None and here != published
    ]


def _pictures(found: Photographs, thorough: bool) -> tuple[list[str], list[str]]:
    """Names of pictures that are missing or no pictures, and of those that have another shape than announced."""
    unusable, odd = [], []
    for name, shape in tqdm(found.shapes.items(), "pictures", unit="picture", disable=None, leave=False):
        size = _size(found.path(name), thorough)
        if size is None:
            unusable.append(name)
        elif size != shape:
            odd.append(name)
    return unusable, odd


def _size(path: Path, thorough: bool) -> tuple[int, int] | None:
    """Width and height as its header says, or as decoded; None if it is no picture."""
    try:
        if thorough:
            return open_image(path).size
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what PIL raises at what is no picture
        return None


def _some(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return f"{len(names):,} picture{'s' if len(names) > 1 else ''}: {', '.join(names[:count])}{more}"
