"""The datasets by name: open one, or check which of its files are there and say what to download. Downloads nothing.

Sizes and hashes of archives are those that tensorflow/datasets (COCO) and huggingface/datasets (Visual Genome) recorded
when they downloaded them; they are left out where neither has one. Unpacked files are checked against the annotations.
"""

import functools
import shlex
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from ediffi.evaluation.datasets import coco, own, visual_genome
from ediffi.evaluation.datasets.captioned import CaptionDataset, PhotographDataset
from ediffi.io.files import sha256
from ediffi.io.images import open_image
from ediffi.io.progress import Progress

ODD_SHARE: Final = 1 / 1000  # of the images that may have another shape than the annotations say: they have errors, too


@dataclass(frozen=True)
class Archive:
    """A zip file of a dataset; `size` in bytes and the hash are None where they are unknown."""

    url: str
    unpacks: str  # the needed file or folder in it, relative to the folder of the dataset
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class PublishedDataset:
    """A dataset as its authors published it; `captions` is None where their number is unknown."""

    title: str
    archives: Sequence[Archive]
    read: Callable[[Path], PhotographDataset]  # opens it in a folder
    images: int
    captions: int | None = None


class Preparation(NamedTuple):
    """Whether a dataset in a folder is complete, and lines to print: files found, files missing, what to download."""

    complete: bool
    lines: Sequence[str]


KNOWN: Final = {  # size in bytes and SHA-256 of archives
    "annotations": (252_872_794, "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"),
    "val2014": (6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
    "images": (9_731_705_982, "51c682d2721f880150720bb416e0346a4c787e4c55d7f80dfd1bd3f73ba81646"),
    "images2": (5_471_658_058, "99da1a0ddf87011319ff3b05cf9176ffee2731cc3c52951162d9ef0d68e3cfb5"),
}
COCO, COCO_ZIP = "http://images.cocodataset.org", "annotations_trainval2014.zip"
GENOME_IMAGES: Final = "https://cs.stanford.edu/people/rak248/VG_100K_2"
GENOME: Final = "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset"
PUBLISHED: Final[Mapping[str, PublishedDataset]] = {
    "coco2014": PublishedDataset(
        coco.SOURCE,
        (
            Archive(f"{COCO}/annotations/{COCO_ZIP}", f"annotations/{coco.FILE}", *KNOWN["annotations"]),
            Archive(f"{COCO}/zips/val2014.zip", coco.FOLDER, *KNOWN["val2014"]),
        ),
        coco.open_coco,
        images=coco.PICTURES,
        captions=coco.CAPTIONS,
    ),
    "visual-genome": PublishedDataset(
        "Visual Genome",
        (
            Archive(f"{GENOME}/{visual_genome.IMAGES}.zip", visual_genome.IMAGES),
            Archive(f"{GENOME}/{visual_genome.REGIONS}.zip", visual_genome.REGIONS),
            Archive(f"{GENOME_IMAGES}/images.zip", visual_genome.FOLDERS[0], *KNOWN["images"]),
            Archive(f"{GENOME_IMAGES}/images2.zip", visual_genome.FOLDERS[1], *KNOWN["images2"]),
        ),
        functools.partial(visual_genome.open_visual_genome, exclude_coco=False),
        # Of 108,077, less those that are known to be corrupt.
        images=108_077 - len(visual_genome.CORRUPT),
    ),
}


def open_dataset(name: str, root: Path | None = None, options: Mapping[str, Any] | None = None) -> CaptionDataset:
    """Open "coco2014", "visual-genome", "emoji", "toybox" or "own", from the folder `root` or else data/NAME.

    Toybox has no files. `options` are further arguments of `Toybox`, `EmojiScenes`, `open_coco`, `open_visual_genome`
    or `open_own`. OSError or ValueError says which file is missing or broken, or which option is wrong.
    """
    from ediffi.evaluation.datasets.emoji.dataset import EmojiScenes
    from ediffi.evaluation.datasets.toybox.dataset import Toybox

    folder = root or Path("data") / name
    openers: dict[str, Callable[..., CaptionDataset]] = {
        "coco2014": functools.partial(coco.open_coco, folder),
        "visual-genome": functools.partial(visual_genome.open_visual_genome, folder),
        "emoji": functools.partial(EmojiScenes, folder),
        "toybox": Toybox,
        "own": functools.partial(own.open_own, folder),
    }
    if name not in openers:
        raise ValueError(f"no dataset {name!r}: allowed are {', '.join(openers)}")
    try:
        return openers[name](**(options or {}))
    except TypeError as error:
        raise ValueError(f"dataset_options {dict(options or {})} are not for {name}: {error}") from None


def prepare(name: str, root: Path | None = None, thorough: bool = False) -> Preparation:
    """Check which files of "coco2014" or "visual-genome" are in `root`, data/NAME by default; say what to download.

    `thorough`: also decode every image, and compute the hashes of archives that have to be unpacked: minutes.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no dataset {name!r} to prepare; allowed: {', '.join(PUBLISHED)}")
    return check(PUBLISHED[name], root or Path("data") / name, thorough)


def check(dataset: PublishedDataset, root: Path, thorough: bool = False) -> Preparation:
    """Check which files of a published dataset are in a folder; see `prepare`."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; the folder of the dataset is needed")
    lines = [f"{dataset.title} in {root.resolve()}"]
    needed = [archive for archive in dataset.archives if not _is_unpacked(archive, root)]
    lines += [f"  missing: {archive.unpacks}" for archive in needed]
    if not needed:
        findings, needed = _inspect(dataset, root, thorough)
        lines += findings
    for archive in needed:
        lines += _how_to_get(archive, root, thorough)
    return Preparation(not needed, [*lines, "incomplete" if needed else "complete"])


def _inspect(dataset: PublishedDataset, root: Path, thorough: bool) -> tuple[list[str], list[Archive]]:
    """Lines about an unpacked dataset, and the archives that have to be unpacked again."""
    annotations = [archive for archive in dataset.archives if archive.unpacks.endswith(".json")]
    try:
        found = dataset.read(root)
    except (OSError, ValueError) as error:
        return [f"  wrong: {error}"], annotations
    captions = len(found.items()) + found.protocol.get("blank_captions_left_out", 0)
    counts = [("images", len(found.shapes), dataset.images), ("captions", captions, dataset.captions)]
    wrong = [
        f"  wrong: the annotations have {here:,} {what}, and {published:,} were published"
        for what, here, published in counts
        if published is not None and here != published
    ]
    unusable, odd = _bad_images(found, thorough)
    lines = [f"  there: {len(found.items()):,} captions, {len(found.shapes) - len(unusable):,} images", *wrong]
    lines += [f"  wrong: missing or broken, {_some(unusable)}"] if unusable else []
    tolerated = len(odd) <= ODD_SHARE * len(found.shapes)
    verdict = "odd" if tolerated else "wrong"
    lines += [f"  {verdict}: of another shape than in the annotations, {_some(odd)}"] if odd else []
    folders = {found.path(name).parent.name for name in [*unusable, *([] if tolerated else odd)]}
    needed = [*(annotations if wrong else []), *(archive for archive in dataset.archives if archive.unpacks in folders)]
    return lines, needed


def _is_unpacked(archive: Archive, root: Path) -> bool:
    if Path(archive.unpacks).name == coco.FILE:
        return coco.find_captions(root) is not None
    return (root / archive.unpacks).exists()


def _how_to_get(archive: Archive, root: Path, thorough: bool) -> list[str]:
    """Commands that download and unpack an archive, as far as they are needed."""
    here = root / Path(archive.url).name
    known = "" if archive.size is None else f", {archive.size:,} bytes"
    hashed = "" if archive.sha256 is None else f", sha256 {archive.sha256}"
    place, unpack = shlex.quote(str(here)), f"    unzip -o {shlex.quote(str(here))} -d {shlex.quote(str(root))}"
    curl = f"    curl --create-dirs -L -C - -o {place} {archive.url}"
    fetch = [f"  download: {archive.url}{known}{hashed}", curl, unpack]
    if not here.is_file():
        return fetch
    size = here.stat().st_size
    if archive.size is not None and size < archive.size:
        return [f"  wrong size: {here.name} has {size:,} of {archive.size:,} bytes; resume the download", *fetch]
    if archive.size is None and not zipfile.is_zipfile(here):
        return [f"  wrong: {here.name}, {size:,} bytes, is not a whole archive; resume the download", *fetch]
    larger = archive.size is not None and size > archive.size
    if larger or (thorough and archive.sha256 is not None and sha256(here) != archive.sha256):
        return [f"  wrong: {here.name}, {size:,} bytes, is not the published file; remove it", *fetch]
    return [f"  downloaded: {here.name}; unpack it", unpack]


def _bad_images(found: PhotographDataset, thorough: bool) -> tuple[list[str], list[str]]:
    """Names of files that are missing or not images, and of images with another shape than in the annotations."""
    unusable, odd = [], []
    for name, shape in Progress(found.shapes.items(), "images", unit="image", leave=False):
        try:
            size = open_image(found.path(name), decode=thorough).size
        except (OSError, ValueError):
            unusable.append(name)
        else:
            odd += [name] if size != shape else []
    return unusable, odd


def _some(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return f"{len(names):,} image{'s' if len(names) > 1 else ''}: {', '.join(names[:count])}{more}"
