"""Images that another system made: which file of a folder, or member of a shard, belongs to which caption."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from ediffi.evaluation.images.members import TarImages, is_image, members_of, split
from ediffi.evaluation.images.numbered import FORMAT, INDEX, ImageFolder, ImageShards, NumberedImages
from ediffi.io import plain_json

Match = Literal["name", "index", "key", "order"]
"""How files are matched to captions: by number or id, whichever fits; by one of them; or by the order of names."""


def find_images(place: Path, keys: Sequence[str], match: Match = "name") -> NumberedImages:
    """The images of a folder, of the shards in it, or of one shard, one for each caption.

    A file is named by the number of its caption (`7.png`, `00007.jpg`) or by the id of its annotation (`keys`, in
    order). With "name" the rule that fits is used. With "order" the files are sorted naturally, `2.png` before
    `10.png`, and the first ones are used. There may be more files than captions, but not fewer: a metric over fewer
    images is another metric. Folders in the folder are not searched. Shards that `generate` wrote are read by number.
    """
    if _has_own_shards(place):
        return ImageShards.read(place, first=len(keys))
    images = all_images(place)
    if len(images) < len(keys) and match == "order":
        raise ValueError(f"{place} has {_count(len(images))}, and {len(keys)} are needed")
    names = [images.name(index) for index in range(len(images))]
    chosen = range(len(keys)) if match == "order" else _matched(place, names, keys, match)
    if isinstance(images, TarImages):
        return TarImages([images.members[index] for index in chosen])
    return ImageFolder(place, [names[index] for index in chosen])


def all_images(place: Path) -> ImageFolder | ImageShards | TarImages:
    """All images of a folder, of the shards in it, or of one shard, in the natural order of their names."""
    if not place.is_dir() and not (place.is_file() and place.suffix == ".tar"):
        raise NotADirectoryError(f"no folder {place}, and no shard (.tar)")
    if _has_own_shards(place):
        return ImageShards.read(place)
    files = [path.name for path in place.iterdir() if path.is_file()] if place.is_dir() else []
    tars = [place / name for name in natural(files) if name.endswith(".tar")] if place.is_dir() else [place]
    names = natural(filter(is_image, files))
    if names and tars:
        raise ValueError(f"{place} holds images, such as {names[0]}, and shards, such as {tars[0].name}; keep one kind")
    if any(tar.with_name(tar.name + ".sha256").exists() for tar in tars):
        raise ValueError(f"{place} holds shards without {INDEX}: the run is not complete")
    members = members_of(tars, is_image)
    if not names and not members:
        raise ValueError(f"{place} holds no images")
    return TarImages(members) if tars else ImageFolder(place, names)


def _count(number: int) -> str:
    return f"{number} image{'s' if number != 1 else ''}"


def _has_own_shards(place: Path) -> bool:
    """Whether a folder has an index that `generate` wrote, or one that nothing can read."""
    if not (place / INDEX).is_file():
        return False
    try:
        found = plain_json.read(place / INDEX).get("format")
    except (ValueError, AttributeError):
        return True
    return not str(found).startswith("ediffi-") or str(found).rpartition("-")[0] == FORMAT.rpartition("-")[0]


def natural(names: Iterable[str]) -> list[str]:
    """Names in natural order: numbers in them are compared as numbers."""

    def key(name: str) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if odd % 2 else (0, part) for odd, part in enumerate(parts)], name

    return sorted(names, key=key)


def _matched(place: Path, names: Sequence[str], keys: Sequence[str], match: Match) -> list[int]:
    """Which of the names belongs to each caption, by number or id."""
    by_number, by_key = defaultdict[int, list[int]](list), defaultdict[str, list[int]](list)
    for position, name in enumerate(names):
        stem = split(name)[0].rpartition("/")[2] if "/" in name else Path(name).stem  # of a shard, and of a folder
        by_key[stem].append(position)
        if re.fullmatch("[0-9]+", stem):
            by_number[int(stem)].append(position)
    rules: dict[str, list[list[int]]] = {}
    if match in ("name", "index"):
        rules["number"] = [by_number[index] for index in range(len(keys))]
    if match in ("name", "key"):
        rules["annotation id"] = [by_key[key] for key in keys]
    complete = [found for found in rules.values() if all(found)]
    if not complete:
        rule, found = max(rules.items(), key=lambda item: sum(map(bool, item[1])))
        index = [bool(several) for several in found].index(False)
        fitting = f"{sum(map(bool, found))} of {len(keys)} are named by {rule}, as in 00000.png or {keys[0]}.png"
        missing = f"none for caption {index} (annotation {keys[index]})"
        raise ValueError(f"{place} has {_count(len(names))}, but {missing}; {fitting}")
    for found in complete:
        for index, several in enumerate(found):
            if len(several) > 1:
                two = f"{names[several[0]]} and {names[several[1]]}"
                raise ValueError(f"{place} has two images for caption {index}: {two}")
    first, *others = complete
    if others and others[0] != first:
        both = f"{names[first[0][0]]} and {names[others[0][0][0]]}; say which (--match index or key)"
        raise ValueError(f"{place} has images named by number and by annotation id, such as {both}")
    return [several[0] for several in first]
