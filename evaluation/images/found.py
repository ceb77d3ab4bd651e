"""Images that another system made: which file of a folder belongs to which caption."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from ediffi.evaluation.images.numbered import INDEX, ImageFolder, ImageShards

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Match = Literal["name", "index", "key", "order"]
"""How files are matched to captions: by number or id, whichever fits; by one of them; or by the order of names."""


def find_images(folder: Path, keys: Sequence[str], match: Match = "name") -> ImageFolder | ImageShards:
    """The images of a folder, one for each caption; shards written by `generate` are read by number.

    A file is named by the number of its caption (`7.png`, `00007.jpg`) or by the id of its annotation (`keys`, in
    order). With "name" the rule that fits is used. With "order" the files are sorted naturally, `2.png` before
    `10.png`, and the first ones are used. There may be more files than captions, but not fewer: a metric over fewer
    images is another metric. Folders in the folder are not searched.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder {folder}")
    if (folder / INDEX).exists():
        return ImageShards.read(folder, first=len(keys))
    images = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()]
    names = natural(path.name for path in images)
    if not names:
        unfinished = f"shards without {INDEX}: the run is not complete" if any(folder.glob("*.tar")) else "no images"
        raise ValueError(f"{folder} holds {unfinished}")
    if len(names) < len(keys):
        raise ValueError(f"{folder} has {len(names)} images, and {len(keys)} are needed")
    return ImageFolder(folder, names[: len(keys)] if match == "order" else _matched(folder, names, keys, match))


def natural(names: Iterable[str]) -> list[str]:
    """Names in natural order: numbers in them are compared as numbers."""

    def key(name: str) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if odd % 2 else (0, part) for odd, part in enumerate(parts)], name

    return sorted(names, key=key)


def _matched(folder: Path, names: Sequence[str], keys: Sequence[str], match: Match) -> list[str]:
    """The file of each caption, by number or id."""
    by_number, by_key = defaultdict(list), defaultdict(list)
    for name in names:
        stem = Path(name).stem
        by_key[stem].append(name)
        if re.fullmatch("[0-9]+", stem):
            by_number[int(stem)].append(name)
    rules: dict[str, list[list[str]]] = {}
    if match in ("name", "index"):
        rules["number"] = [by_number[index] for index in range(len(keys))]
    if match in ("name", "key"):
        rules["annotation id"] = [by_key[key] for key in keys]
    complete = [found for found in rules.values() if all(found)]
    if not complete:
        rule, found = max(rules.items(), key=lambda item: sum(map(bool, item[1])))
        index = [bool(files) for files in found].index(False)
        fitting = f"{sum(map(bool, found))} of {len(keys)} are named by {rule}, as in 00000.png or {keys[0]}.png"
        missing = f"none for caption {index} (annotation {keys[index]})"
        raise ValueError(f"{folder} has {len(names)} images, but {missing}; {fitting}")
    for found in complete:
        for index, several in enumerate(found):
            if len(several) > 1:
                raise ValueError(f"{folder} has two images for caption {index}: {several[0]} and {several[1]}")
    first, *others = complete
    if others and others[0] != first:
        both = f"{first[0][0]} and {others[0][0][0]}; set match to index or key"
        raise ValueError(f"{folder} has images named by number and by annotation id, such as {both}")
    return [several[0] for several in first]
