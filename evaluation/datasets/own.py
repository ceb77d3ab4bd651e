"""Images of one's own with captions: shards, a file of captions and images, or a text beside each image.

Which of them a folder has is plain from it: `.tar` files are shards, as img2dataset and `ediffi embed` write them;
with `captions` the folder has that file, a table (.csv, .tsv), JSON lines (.jsonl) or annotations in COCO's layout
(.json); else each image has a text file of its name (`cat.jpg`, `cat.txt`), in any folder below.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from PIL import Image

from ediffi.evaluation.datasets.annotations import entries, read_json, tidy
from ediffi.evaluation.datasets.captioned import CaptionedImage
from ediffi.evaluation.datasets.coco import captioned, file_names
from ediffi.evaluation.images.members import Member, is_image, members_of, samples
from ediffi.io import files, plain_json, prompt_files
from ediffi.io.images import open_image, rgb, square
from ediffi.io.tables import LINES, read_table

KINDS: Final = (".csv", ".tsv", ".jsonl", ".json")


@dataclass(eq=False)
class OwnImages:
    """A `CaptionDataset`, without measures, of the images and captions that `open_own` found."""

    root: Path
    kind: str  # where the captions come from
    captions: Sequence[CaptionedImage]
    places: Mapping[str, Path | Member]  # of each image, by `image_id`
    left_out: Mapping[str, int] = field(default_factory=dict)  # how many captions or images, by reason
    name: str = "own"

    @cached_property
    def protocol(self) -> Mapping[str, Any]:
        """See `CaptionDataset`. Every byte of the images is hashed, so that other images are another dataset."""
        used = {item.image_id: self.places[item.image_id] for item in self.captions}
        paths = {place.tar if isinstance(place, Member) else place for place in used.values()}
        return {
            "source": self.kind,
            "images_sha256": files.fingerprint(sorted(paths)),
            "pictures": len(used),
            "captions": len(self.captions),
            **self.left_out,
            "words_per_caption": round(sum(len(one.caption.split()) for one in self.captions) / len(self.captions), 1),
            "caption_rule": "as given; white space around is dropped, and within becomes one space",
        }

    def items(self) -> Sequence[CaptionedImage]:
        """Every caption."""
        return self.captions

    def reference(self, item: CaptionedImage, size: int) -> Image.Image:
        """The item's image, see `CaptionDataset`; raises BadImageError if it is broken."""
        place = self.places[item.image_id]
        return square(rgb(open_image(place.read() if isinstance(place, Member) else place, str(place))), size)

    def measure(self, item: CaptionedImage, image: Image.Image) -> dict[str, float]:
        """Nothing: there is no ground truth."""
        return {}


def open_own(
    root: Path,
    captions: str | None = None,
    images: str = ".",
    image_column: str = "file_name",
    caption_column: str = "caption",
    id_column: str | None = None,
) -> OwnImages:
    """Images and captions in a folder of one's own; the module says what it may hold.

    An item's key is its id in `id_column` (of COCO's layout the annotation's id; of shards and texts the name of the
    sample), else the name of the image, with a number from its second caption on. Blank captions and samples without
    a caption or an image are left out and counted.

    Args:
        root: the folder.
        captions: a file in it.
        images: the folder in it that the file's names of images begin in.
        image_column: of a table or of JSON lines; the default is that of the Hub's image folders.
        caption_column: the same.
        id_column: the same.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, an image is named that is not there, or nothing has a caption.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} with images and captions; --root names it")
    if captions is None:
        tars = sorted(root.glob("*.tar"))
        found = _of_shards(root, tars) if tars else _of_texts(root)
    elif not (path := root / captions).is_file():
        raise FileNotFoundError(f"no {captions} in {root}")
    elif path.suffix == ".json":
        found = _of_coco(root, path, root / images)
    elif path.suffix in KINDS:
        columns = (image_column, caption_column, id_column)
        found = _of_rows(root, path, root / images, columns)
    else:
        raise ValueError(f"captions must be a file of {', '.join(KINDS)}, got {captions!r}")
    if not found.captions:
        raise ValueError(f"{root} has no image with a caption ({found.kind})")
    return found


def _of_shards(root: Path, tars: Sequence[Path]) -> OwnImages:
    """The samples of shards: an image, and a caption in `.txt`, or else under "caption" in `.json`."""
    items, places, left_out = [], dict[str, Path | Member](), Counter[str]()
    wanted = members_of(tars, lambda name: is_image(name) or name.lower().endswith((".txt", ".json")))
    for key, sample in samples(wanted).items():
        image = next((member for member in sample.values() if is_image(member.name)), None)
        text = _text(key, sample)
        if image is None or text is None:
            left_out[f"samples_without_{'image' if image is None else 'caption'}"] += 1
        elif caption := tidy(text, f"sample {key!r} of {root}"):
            items.append(CaptionedImage(key.rpartition("/")[2], caption, key))
            places[key] = image
        else:
            left_out["blank_captions_left_out"] += 1
    return OwnImages(root, "shards", items, places, left_out)


def _text(key: str, sample: Mapping[str, Member]) -> str | None:
    """The caption of a sample; None without."""
    try:
        if "txt" in sample:
            return sample["txt"].read().decode()
        known = plain_json.loads(sample["json"].read()) if "json" in sample else {}
    except ValueError as error:
        raise ValueError(f"the caption of sample {key!r} cannot be read: {error}") from None
    text = known.get("caption") if isinstance(known, dict) else None
    return text if isinstance(text, str) else None


def _of_texts(root: Path) -> OwnImages:
    """Every image with a text of its name beside it."""
    items, places, left_out = [], dict[str, Path | Member](), Counter[str]()
    for path in sorted(path for path in root.rglob("*") if is_image(path.name) and path.is_file()):
        name = path.relative_to(root).as_posix()
        if not (text := path.with_suffix(".txt")).is_file():
            left_out["images_without_caption"] += 1
        elif caption := tidy(prompt_files.read_text(text), str(text)):
            items.append(CaptionedImage(path.stem, caption, name))
            places[name] = path
        else:
            left_out["blank_captions_left_out"] += 1
    return OwnImages(root, "a text beside each image", items, places, left_out)


def _of_coco(root: Path, path: Path, folder: Path) -> OwnImages:
    """Annotations in COCO's layout: "images" with id and file_name, "annotations" with id, image_id and caption."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{path} has no images and annotations, as COCO's layout has")
    names = file_names(entries(content["images"], f"images of {path}"), path)
    annotations = entries(content["annotations"], f"annotations of {path}")
    items = captioned(annotations, names, path)
    blank = {"blank_captions_left_out": len(annotations) - len(items)} if len(annotations) > len(items) else {}
    return OwnImages(root, f"{path.name}, in COCO's layout", items, _places(path, folder, items), blank)


def _of_rows(root: Path, path: Path, folder: Path, columns: tuple[str, str, str | None]) -> OwnImages:
    """The rows of a table, or JSON lines."""
    image_column, caption_column, id_column = columns
    items, left_out, times = [], Counter[str](), Counter[str]()
    for where, row in read_table(path):
        image, text, key = (row.get(column) if column else None for column in columns)
        for column, value in ((image_column, image), (caption_column, text), (id_column, key)):
            if column and not isinstance(value, str | int if column == id_column else str):
                if column in row:
                    raise ValueError(f"{where} has no text in {column!r}, but {row[column]!r:.60}")
                place = where if path.suffix.lower() in LINES else f"{path}, line 1"
                raise ValueError(f"{place} has no {column!r}; it has {', '.join(map(str, list(row)[:8]))}")
        name = PurePosixPath(str(image)).as_posix()
        if not (caption := tidy(str(text), where)):
            left_out["blank_captions_left_out"] += 1
            continue
        times[name] += 1
        own = PurePosixPath(name).stem + (f"-{times[name]}" if times[name] > 1 else "")
        items.append(CaptionedImage(own if key is None else str(key), caption, name))
    return OwnImages(root, path.name, items, _places(path, folder, items), left_out)


def _places(path: Path, folder: Path, items: Iterable[CaptionedImage]) -> dict[str, Path | Member]:
    """The file of each image; ValueError counts those that are not in the folder, or would be outside of it."""
    places: dict[str, Path | Member] = {}
    for name in dict.fromkeys(item.image_id for item in items):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise ValueError(f"{path} names the image {name!r:.80}; a path inside of {folder} is needed")
        places[name] = folder / name
    if missing := [name for name, place in places.items() if isinstance(place, Path) and not place.is_file()]:
        images = "an image that is" if len(missing) == 1 else f"{len(missing):,} images that are"
        raise FileNotFoundError(f"{path} names {images} not in {folder}, such as {missing[0]}")
    return places
