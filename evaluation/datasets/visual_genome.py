"""Visual Genome: 108,077 photographs whose regions are described; one long caption each (Krishna et al. 2016).

The paper's captions have 61.9 words on average, and it does not say how they were made (eDiff-I, section 5). Our choice
is `join`.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ediffi.evaluation.datasets.annotations import entries, integer, read_json, stream, tidy
from ediffi.evaluation.datasets.captioned import CaptionedImage, PhotographDataset
from ediffi.io.files import sha256

REGIONS: Final = "region_descriptions.json"
IMAGES: Final = "image_data.json"
FOLDERS: Final = ("VG_100K", "VG_100K_2")
WORDS: Final = 61.9  # mean number of words of a caption in the paper
CORRUPT: Final = frozenset({1592, 1722, 4616, 4617})  # left out as in work on scene graphs, since Xu et al. 2017


class RegionDescription(NamedTuple):
    """A described part of a photograph: its id, the area of its box in pixels (0 if inverted), and the phrase."""

    key: int
    area: int
    phrase: str


class Photograph(NamedTuple):
    """An entry of `image_data.json`: (width, height), folder of `FOLDERS` if the url names one, also in COCO or not."""

    shape: tuple[int, int]
    folder: str | None
    in_coco: bool


def open_visual_genome(root: Path, exclude_coco: bool = True, words: float = WORDS) -> PhotographDataset:
    """The photographs of Visual Genome, "visual-genome", each with one caption that `join` makes of its regions.

    An item's key is the photograph's id, its `image_id` the file name. `root` has `region_descriptions.json`,
    `image_data.json`, `VG_100K/` and `VG_100K_2/`, as the archives unpack. `exclude_coco` leaves out the photographs
    with a `coco_id`, about half: so the numbers are zero-shot also for a model that was trained on COCO (our choice).
    """
    if not words >= 1:
        raise ValueError(f"words must be at least 1, got {words}")
    missing = [name for name in (REGIONS, IMAGES) if not (root / name).is_file()]
    if not any((root / name).is_dir() for name in FOLDERS):
        missing.append(" and ".join(FOLDERS))
    if missing:
        raise FileNotFoundError(f"no {missing[0]} in {root}; `ediffi evaluate prepare visual-genome` says where it is")
    known = _photographs(root / IMAGES)
    corrupt = CORRUPT & known.keys()
    kept = {key: one for key, one in known.items() if key not in corrupt and not (exclude_coco and one.in_coco)}
    captions, blank = _captions(root / REGIONS, known.keys(), kept.keys(), words)
    items = [CaptionedImage(str(key), text, f"{key}.jpg") for key, text in captions.items()]
    if not items:
        raise ValueError(f"{root / REGIONS} has no captions for the {len(kept)} photographs that are wanted")
    protocol = {
        "source": "Visual Genome",
        "annotations": [{"file": name, "sha256": sha256(root / name)} for name in (REGIONS, IMAGES)],
        "pictures": len(items),
        "captions": len(items),
        "pictures_without_captions": len(kept) - len(items),
        "pictures_in_coco_left_out": len(known) - len(kept) - len(corrupt),
        "pictures_known_corrupt_left_out": len(corrupt),
        "blank_phrases_left_out": blank,
        "words_per_caption": round(sum(len(item.caption.split()) for item in items) / len(items), 1),
        "caption_rule": f"distinct phrases, largest regions first, a sentence each, nearest to {words:g} words",
    }

    def path(image_id: str) -> Path:  # in the folder of its url, or else in the other
        own = kept[int(Path(image_id).stem)].folder
        paths = [root / folder / image_id for folder in sorted(FOLDERS, key=lambda folder: folder != own)]
        return next((path for path in paths if path.is_file()), paths[0])

    shapes = {f"{key}.jpg": photograph.shape for key, photograph in kept.items()}
    return PhotographDataset("visual-genome", protocol, items, shapes, path)


def join(regions: Iterable[RegionDescription], words: float = WORDS) -> str:
    """One caption of many regions: a pure function of the set of them, whatever their order.

    The largest box comes first, of equal ones the smaller id. A phrase is skipped if one before it has all of its words
    (whatever their case). Phrases are added while that brings the number of words nearer to `words`; the first is
    always taken. Each becomes a sentence: a capital first letter, a full stop. Empty if no region has a phrase.
    """
    sentences: list[str] = []
    used: list[set[str]] = []
    count = 0
    for region in sorted(regions, key=lambda region: (-region.area, region.key, region.phrase)):
        phrase = region.phrase.strip(" .,;:")
        own = set(phrase.casefold().split())
        if not own or any(own <= earlier for earlier in used):
            continue
        length = len(phrase.split())
        if sentences and abs(count + length - words) >= abs(count - words):
            break
        sentences.append(f"{phrase[0].upper()}{phrase[1:]}.")
        used.append(own)
        count += length
    return " ".join(sentences)


def _photographs(path: Path) -> dict[int, Photograph]:
    photographs: dict[int, Photograph] = {}
    for index, entry in enumerate(entries(read_json(path), str(path))):
        key = _image_id(entry, f"entry {index} of {path}")
        what = f"image {key} of {path}"
        if key in photographs:
            raise ValueError(f"{what} is listed twice")
        if in_coco := entry.get("coco_id") is not None:
            integer(entry, "coco_id", what)
        shape = integer(entry, "width", what, 1), integer(entry, "height", what, 1)
        folder = next((part for part in str(entry.get("url")).split("/") if part in FOLDERS), None)
        photographs[key] = Photograph(shape, folder, in_coco)
    return photographs


def _captions(
    path: Path, known: Collection[int], wanted: Collection[int], words: float
) -> tuple[Mapping[int, str], int]:
    """The captions of the wanted photographs by id, in the file's order, and how many of their phrases are blank."""
    seen: set[int] = set()
    captions: dict[int, str] = {}
    blank = 0
    for index, entry in enumerate(stream(path)):
        what = f"entry {index} of {path}"
        if not isinstance(entry, dict) or "regions" not in entry:
            raise ValueError(f"{what} has no regions; Visual Genome's {REGIONS} is needed")
        key = _image_id(entry if entry.keys() & {"image_id", "id"} else _of_regions(entry["regions"], what), what)
        if key in seen:
            raise ValueError(f"image {key} of {path} is listed twice")
        if key not in known:
            raise ValueError(f"{what} is of the image {key}, which {IMAGES} does not have")
        seen.add(key)
        if key in wanted:
            regions = _regions(entry["regions"], f"image {key} of {path}")
            described = [region for region in regions if region.phrase]
            blank += len(regions) - len(described)
            if text := join(described, words):
                captions[key] = text
    return captions, blank


def _regions(content: Any, image: str) -> list[RegionDescription]:
    """The regions of an image; those without words have an empty phrase."""
    regions = []
    for index, entry in enumerate(entries(content, f"regions of {image}")):
        key = integer(entry, "region_id", f"region {index} of {image}")
        what, phrase = f"region {key} of {image}", entry.get("phrase")
        if not isinstance(phrase, str | None):
            raise ValueError(f"{what} has the phrase {phrase!r:.60}; a text is needed")
        width, height = integer(entry, "width", what, None), integer(entry, "height", what, None)
        regions.append(RegionDescription(key, max(width, 0) * max(height, 0), tidy(phrase or "", what).strip(" .,;:")))
    return regions


def _of_regions(regions: Any, what: str) -> dict[str, Any]:
    """The id of a photograph that only its regions say, as some editions of the file have it."""
    ids = {repr(region.get("image_id")): region for region in entries(regions, f"regions of {what}")}
    if len(ids) > 1:
        raise ValueError(f"{what} has no image_id, and its regions have several: {', '.join(list(ids)[:3])}")
    return {"image_id": next(iter(ids.values()), {}).get("image_id")}


def _image_id(entry: dict[str, Any], what: str) -> int:
    """The id of a photograph, which versions of the files call `image_id` or `id`."""
    keys = [key for key in ("image_id", "id") if key in entry]
    if len({repr(entry[key]) for key in keys}) > 1:
        raise ValueError(f"{what} has the image_id {entry['image_id']!r:.60} and the id {entry['id']!r:.60}")
    return integer(entry, keys[0] if keys else "image_id", what)
