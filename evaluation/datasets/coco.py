"""COCO 2014 validation: 40,504 photographs, about five short captions each (Chen et al. 2015, arXiv 1504.00325)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.evaluation.datasets.annotations import entries, read_json, tidy, whole
from ediffi.evaluation.datasets.captioned import Item, photograph
from ediffi.io.files import sha256

FILE = "captions_val2014.json"
FOLDER = "val2014"


class Coco:
    """The captions and photographs of COCO 2014's validation set.

    Every caption is an item: its key is the annotation's id, its picture the file name. White space around a caption is
    dropped and any within it becomes one space; nothing else is changed. A caption of white space alone is left out.

    Args:
        annotations: `captions_val2014.json`.
        folder: `val2014`, the photographs.

    Attributes:
        name: "coco2014".
        protocol: what was read: file and hash, counts, what was left out.
        shapes: width and height of each photograph, as announced.

    Raises:
        OSError: the annotations cannot be read.
        ValueError: they are broken, of another kind, or contradict themselves.
    """

    def __init__(self, annotations: Path, folder: Path) -> None:
        self.name = "coco2014"
        self.folder = folder
        content = read_json(annotations)
        if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
            raise ValueError(f"{annotations} has no images and annotations; COCO's {FILE} is needed")
        names, shapes = _photographs(entries(content["images"], f"images of {annotations}"), annotations)
        self.shapes: Mapping[str, tuple[int, int]] = shapes
        captions = entries(content["annotations"], f"annotations of {annotations}")
        self._items = _items(captions, names, annotations)
        used = {item.picture for item in self._items}
        self.protocol: Mapping[str, Any] = {
            "source": "COCO 2014 validation",
            "annotations": {"file": annotations.name, "sha256": sha256(annotations)},
            "pictures": len(used),
            "captions": len(self._items),
            "pictures_without_captions": len(self.shapes) - len(used),
            "blank_captions_left_out": len(captions) - len(self._items),
            "words_per_caption": round(sum(len(item.caption.split()) for item in self._items) / len(self._items), 1),
            "caption_rule": "as annotated; white space around is dropped, and within becomes one space",
        }

    @classmethod
    def open(cls, root: Path) -> "Coco":
        """The data set in a folder, as the official archives unpack into it.

        Args:
            root: has `val2014/`, and `captions_val2014.json` in `annotations/` or in itself.

        Raises:
            OSError: one of them is missing or cannot be read.
            ValueError: the annotations are broken, or of another kind.
        """
        annotations = find(root)
        missing = FILE if annotations is None else FOLDER
        if annotations is None or not (root / FOLDER).is_dir():
            raise FileNotFoundError(f"no {missing} in {root}; `ediffi evaluate prepare coco2014` says where to get it")
        return cls(annotations, root / FOLDER)

    def items(self) -> list[Item]:
        """Every caption."""
        return list(self._items)

    def path(self, picture: str) -> Path:
        """Where a photograph is, or should be."""
        return self.folder / picture

    def reference(self, item: Item, size: int) -> Image.Image:
        """The item's photograph: RGB, the centre square, `size` a side.

        Raises:
            ValueError: it is missing or broken.
        """
        return photograph(self.path(item.picture), size)

    def measure(self, item: Item, image: Image.Image) -> dict[str, float]:
        """Nothing: photographs have no ground truth."""
        return {}


def find(root: Path) -> Path | None:
    """The captions in `root/annotations`, where the official archive has them, or in `root`; None without."""
    return next((path for path in (root / "annotations" / FILE, root / FILE) if path.is_file()), None)


def _photographs(images: list[dict[str, Any]], path: Path) -> tuple[dict[int, str], dict[str, tuple[int, int]]]:
    """File names by id, and shapes by file name."""
    names: dict[int, str] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for index, image in enumerate(images):
        key = whole(image, "id", f"image {index} of {path}")
        what, name = f"image {key} of {path}", image.get("file_name")
        if not isinstance(name, str) or name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
            raise ValueError(f"{what} has the file_name {name!r:.60}; the name of a file without folders is needed")
        if key in names or name in shapes:
            raise ValueError(f"{what}, {name}, is there twice")
        names[key] = name
        shapes[name] = whole(image, "width", what, 1), whole(image, "height", what, 1)
    return names, shapes


def _items(annotations: list[dict[str, Any]], names: Mapping[int, str], path: Path) -> list[Item]:
    """The captions that are not blank."""
    if annotations and not any("caption" in annotation for annotation in annotations):
        keys = ", ".join(sorted(annotations[0])[:4])
        raise ValueError(f"{path} has annotations of another kind ({keys}, no caption); COCO's {FILE} is needed")
    items, seen = [], set()
    for index, annotation in enumerate(annotations):
        key = whole(annotation, "id", f"annotation {index} of {path}")
        what, caption = f"annotation {key} of {path}", annotation.get("caption")
        if key in seen:
            raise ValueError(f"{what} is there twice")
        if not isinstance(caption, str):
            raise ValueError(f"{what} has no caption")
        image = whole(annotation, "image_id", what)
        if image not in names:
            raise ValueError(f"{what} has the image_id {image}, and there is no such image")
        seen.add(key)
        if text := tidy(caption, what):
            items.append(Item(str(key), text, names[image]))
    if not items:
        raise ValueError(f"{path} has no captions")
    return items
