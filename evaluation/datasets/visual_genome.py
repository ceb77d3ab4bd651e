"""Visual Genome: 108,077 photographs whose regions are described; one long caption each (Krishna et al. 2016).

The paper's captions have 61.9 words on average, and it does not say how they were made (eDiff-I, section 5). Our choice
is `join`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image

from ediffi.evaluation.datasets.annotations import entries, read_json, stream, tidy, whole
from ediffi.evaluation.datasets.captioned import Item, photograph
from ediffi.io.files import sha256

REGIONS: Final = "region_descriptions.json"
IMAGES: Final = "image_data.json"
FOLDERS: Final = ("VG_100K", "VG_100K_2")
WORDS: Final = 61.9
"""Words of a caption on average in the paper."""
CORRUPT: Final = frozenset({1592, 1722, 4616, 4617})
"""Photographs that work on scene graphs leaves out as corrupt, since Xu et al. 2017; so do we."""


class RegionDescription(NamedTuple):
    """A described part of a photograph.

    Attributes:
        key: its id.
        area: of its box, in pixels; 0 if the box is turned inside out.
        phrase: what it shows; no white space but single spaces.
    """

    key: int
    area: int
    phrase: str


class Photograph(NamedTuple):
    """What `image_data.json` says of a photograph.

    Attributes:
        shape: width and height, in pixels.
        folder: of `FOLDERS`, by its url; None if that does not say.
        in_coco: whether COCO has it too.
    """

    shape: tuple[int, int]
    folder: str | None
    in_coco: bool


class VisualGenome:
    """The photographs of Visual Genome, each with one caption that is joined of its regions by `join`.

    An item's key is the photograph's id, its picture the file name. Both are independent of where the files lie.

    Args:
        root: has `region_descriptions.json`, `image_data.json`, `VG_100K/` and `VG_100K_2/`, as the archives unpack.
        exclude_coco: whether photographs with a `coco_id` are left out: about half, and enough are left. Our choice: so
            the numbers are zero-shot also for a model that was trained on COCO.
        words: what the captions aim at.

    Attributes:
        name: "visual-genome".
        protocol: what was read: files and hashes, counts, what was left out, and the rule of the captions.
        shapes: width and height of each photograph that is not left out, as announced.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: a file is broken, of another kind, or they contradict each other; `words` is below 1.
    """

    def __init__(self, root: Path, exclude_coco: bool = True, words: float = WORDS) -> None:
        if not words >= 1:
            raise ValueError(f"words must be at least 1, got {words}")
        for name in (REGIONS, IMAGES):
            if not (root / name).is_file():
                raise FileNotFoundError(_missing(name, root))
        if not any((root / name).is_dir() for name in FOLDERS):
            raise FileNotFoundError(_missing(" and ".join(FOLDERS), root))
        self.name, self.root = "visual-genome", root
        known = _photographs(root / IMAGES)
        self._photographs = {
            key: photograph
            for key, photograph in known.items()
            if key not in CORRUPT and not (exclude_coco and photograph.in_coco)
        }
        self.shapes: Mapping[str, tuple[int, int]] = {
            f"{key}.jpg": photograph.shape for key, photograph in self._photographs.items()
        }
        captions, blank = _captions(root / REGIONS, known.keys(), self._photographs.keys(), words)
        self._items = [Item(str(key), text, f"{key}.jpg") for key, text in captions.items()]
        if not self._items:
            raise ValueError(f"{root / REGIONS} has no captions for the {len(self.shapes)} photographs that are wanted")
        corrupt = CORRUPT & known.keys()
        self.protocol: Mapping[str, Any] = {
            "source": "Visual Genome",
            "annotations": [{"file": name, "sha256": sha256(root / name)} for name in (REGIONS, IMAGES)],
            "pictures": len(self._items),
            "captions": len(self._items),
            "pictures_without_captions": len(self.shapes) - len(self._items),
            "pictures_in_coco_left_out": len(known.keys() - self._photographs.keys() - corrupt),
            "pictures_known_corrupt_left_out": len(corrupt),
            "blank_phrases_left_out": blank,
            "words_per_caption": round(sum(len(item.caption.split()) for item in self._items) / len(self._items), 1),
            "caption_rule": f"distinct phrases, largest regions first, a sentence each, nearest to {words:g} words",
        }

    @classmethod
    def open(cls, root: Path, exclude_coco: bool = True, words: float = WORDS) -> "VisualGenome":
        """The data set in a folder; see the class."""
        return cls(root, exclude_coco, words)

    def items(self) -> list[Item]:
        """Every caption."""
        return list(self._items)

    def path(self, picture: str) -> Path:
        """Where a photograph is, or should be: in the folder of its url, else in the other."""
        said = self._photographs[int(Path(picture).stem)].folder
        folders = sorted(FOLDERS, key=lambda folder: folder != said)
        paths = [self.root / folder / picture for folder in folders]
        return next((path for path in paths if path.is_file()), paths[0])

    def reference(self, item: Item, size: int) -> Image.Image:
        """The item's photograph: RGB, the centre square, `size` a side.

        Raises:
            ValueError: it is missing or broken.
        """
        return photograph(self.path(item.picture), size)

    def measure(self, item: Item, image: Image.Image) -> dict[str, float]:
        """Nothing: photographs have no ground truth."""
        return {}


def join(regions: Iterable[RegionDescription], words: float = WORDS) -> str:
    """One caption of many regions: a pure function of the set of them, whatever their order.

    The largest box comes first, of equal ones the smaller id. A phrase is skipped if one before it has all of its words
    (whatever their case). Phrases are added while that brings the number of words nearer to `words`; the first is there
    in any case. Each becomes a sentence: a capital first letter, a full stop. Words are what white space separates.

    Returns:
        The caption; empty if no region has a phrase.
    """
    taken: list[str] = []
    said: list[set[str]] = []
    count = 0
    for region in sorted(regions, key=lambda region: (-region.area, region.key, region.phrase)):
        phrase = region.phrase.strip(" .,;:")
        own = set(phrase.casefold().split())
        if not own or any(own <= earlier for earlier in said):
            continue
        length = len(phrase.split())
        if taken and abs(count + length - words) >= abs(count - words):
            break
        taken.append(f"{phrase[0].upper()}{phrase[1:]}.")
        said.append(own)
        count += length
    return " ".join(taken)


def _missing(name: str, root: Path) -> str:
    return f"no {name} in {root}; `ediffi evaluate prepare visual-genome` says where to get it"


def _photographs(path: Path) -> dict[int, Photograph]:
    """What is known of each photograph, by id."""
    photographs: dict[int, Photograph] = {}
    for index, entry in enumerate(entries(read_json(path), str(path))):
        key = _image_id(entry, f"entry {index} of {path}")
        what = f"image {key} of {path}"
        if key in photographs:
            raise ValueError(f"{what} is there twice")
        coco = None if entry.get("coco_id") is None else whole(entry, "coco_id", what)
        shape = whole(entry, "width", what, 1), whole(entry, "height", what, 1)
        parts = str(entry.get("url")).split("/")
        photographs[key] = Photograph(shape, next((part for part in parts if part in FOLDERS), None), coco is not None)
    return photographs


def _captions(path: Path, known: Iterable[int], wanted: Iterable[int], words: float) -> tuple[dict[int, str], int]:
    """The captions of the wanted photographs by id, in the file's order, and how many of their phrases are blank."""
    seen: set[int] = set()
    captions: dict[int, str] = {}
    blank = 0
    known, wanted = set(known), set(wanted)
    for index, entry in enumerate(stream(path)):
        what = f"entry {index} of {path}"
        if not isinstance(entry, dict) or "regions" not in entry:
            raise ValueError(f"{what} has no regions; Visual Genome's {REGIONS} is needed")
        key = _image_id(entry, what)
        if key in seen:
            raise ValueError(f"image {key} of {path} is there twice")
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
        key = whole(entry, "region_id", f"region {index} of {image}")
        what, phrase = f"region {key} of {image}", entry.get("phrase")
        if not isinstance(phrase, str | None):
            raise ValueError(f"{what} has the phrase {phrase!r:.60}; a text is needed")
        width, height = whole(entry, "width", what, None), whole(entry, "height", what, None)
        regions.append(RegionDescription(key, max(width, 0) * max(height, 0), tidy(phrase or "", what).strip(" .,;:")))
    return regions


def _image_id(entry: dict[str, Any], what: str) -> int:
    """The id of a photograph, which versions of the files call `image_id` or `id`."""
    keys = [key for key in ("image_id", "id") if key in entry]
    if len({repr(entry[key]) for key in keys}) > 1:
        raise ValueError(f"{what} has the image_id {entry['image_id']!r:.60} and the id {entry['id']!r:.60}")
    return whole(entry, keys[0] if keys else "image_id", what)
