"""Pictures that any other system made, in a folder, and which of them belongs to which caption."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image

from ediffi.evaluation.images.numbered import Pictures
from ediffi.evaluation.images.shards import INDEX, PictureShards
from ediffi.io import files
from ediffi.io.images import open_image

K = TypeVar("K")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Match = Literal["name", "index", "key", "order"]
"""How pictures are matched to captions: by number or id, whichever fits; by one of them; or by the order of names."""


class FoundPictures:
    """Files of a folder as `Pictures`.

    Args:
        folder: where they are.
        names: of the files, in order.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self._names = folder, list(names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Image.Image:
        return open_image(self.folder / self._names[index])

    def name(self, index: int) -> str:
        """The name of its file."""
        return self._names[index]

    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of the files."""
        return files.fingerprint(self.folder / name for name in self._names)


def find_pictures(folder: Path, keys: Sequence[str], match: Match = "name") -> Pictures:
    """The pictures of a folder for captions; shards of ours are read by number.

    A file is named by the number of its caption (`7.png`, `00007.jpg`) or by the id of its annotation. Which of the two
    is found out, unless `match` says so. With "order" the files are sorted as people sort them, `2.png` before
    `10.png`, and the first ones are taken. There may be more files than captions.

    Args:
        folder: of .png, .jpg, .webp, .bmp, .gif or .tif files; folders in it are not looked into.
        keys: ids of the captions' annotations, in order.
        match: see above.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it holds no pictures, fewer than there are captions, not the ones that the names should give, or
            two for one caption.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder {folder}")
    if (folder / INDEX).exists():
        shards = PictureShards.read(folder)
        _check_enough(folder, len(shards), len(keys))
        return shards if len(shards) == len(keys) else FirstPictures(shards, len(keys))
    names = natural(path.name for path in folder.iterdir() if _is_picture(path))
    if not names:
        unfinished = f"shards without {INDEX}: the run is not complete" if any(folder.glob("*.tar")) else "no pictures"
        raise ValueError(f"{folder} holds {unfinished}")
    _check_enough(folder, len(names), len(keys))
    if match == "order":
        return FoundPictures(folder, names[: len(keys)])
    return FoundPictures(folder, _matched(folder, names, keys, match))


class FirstPictures:
    """The first of some pictures.

    Args:
        pictures: at least `count`.
        count: how many of them.
    """

    def __init__(self, pictures: Pictures, count: int) -> None:
        self.pictures, self.count = pictures, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        return self.pictures[index]

    def name(self, index: int) -> str:
        """What the pictures call it."""
        return self.pictures.name(index)

    def fingerprint(self) -> str:
        """SHA-256 of the fingerprint of all the pictures, and how many of them."""
        return hashlib.sha256(f"{self.pictures.fingerprint()}:{self.count}".encode()).hexdigest()


def natural(names: Iterable[str]) -> list[str]:
    """Names as people sort them: numbers in them count as numbers."""

    def key(name: str) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if odd % 2 else (0, part) for odd, part in enumerate(parts)], name

    return sorted(names, key=key)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _check_enough(folder: Path, found: int, asked: int) -> None:
    """EDM's rule: a measure of fewer pictures than it says is another measure."""
    if found < asked:
        raise ValueError(f"{asked} pictures were asked for, {folder} has {found}")


def _matched(folder: Path, names: Sequence[str], keys: Sequence[str], match: Match) -> list[str]:
    """The file of each caption, by number or id."""
    by_index = _grouped((int(stem), name) for name in names if re.fullmatch("[0-9]+", stem := Path(name).stem))
    by_key = _grouped((Path(name).stem, name) for name in names)
    rules: dict[str, list[list[str]]] = {}
    if match in ("name", "index"):
        rules["number"] = [by_index.get(index, []) for index in range(len(keys))]
    if match in ("name", "key"):
        rules["annotation id"] = [by_key.get(key, []) for key in keys]
    complete = {rule: found for rule, found in rules.items() if all(found)}
    if not complete:
        rule, found = max(rules.items(), key=lambda item: sum(map(bool, item[1])))
        index = [bool(names) for names in found].index(False)
        raise ValueError(
            f"{folder} has {len(names)} pictures, but none for caption {index} (annotation {keys[index]}); "
            f"{sum(map(bool, found))} of {len(keys)} are named by {rule}, as in 00000.png or {keys[0]}.png"
        )
    for found in complete.values():
        for index, several in enumerate(found):
            if len(several) > 1:
                raise ValueError(f"{folder} has two pictures for caption {index}: {several[0]} and {several[1]}")
    first, *others = complete.values()
    if any(other != first for other in others):
        raise ValueError(
            f"{folder} has pictures named by number and by annotation id, such as {first[0][0]} and {others[0][0][0]}; "
            "say which to take"
        )
    return [several[0] for several in first]


def _grouped(pairs: Iterable[tuple[K, str]]) -> Mapping[K, list[str]]:
    groups: dict[K, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name)
    return groups
