"""COCO 2014 validation: 40,504 photographs, about five short captions each (Chen et al. 2015, arXiv 1504.00325)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ediffi.evaluation.datasets.annotations import entries, integer, read_json, tidy
from ediffi.evaluation.datasets.captioned import CaptionedImage, PhotographDataset
from ediffi.io.files import sha256

FILE: Final = "captions_val2014.json"
FOLDER: Final = "val2014"
SOURCE: Final = "COCO 2014 validation"
PICTURES, CAPTIONS = 40_504, 202_654
"""As published. A set of other counts in the same layout is not called COCO."""


def open_coco(root: Path) -> PhotographDataset:
    """The captions and photographs of COCO 2014's validation set, "coco2014".

    Every caption is an item: its key is the annotation's id, its `image_id` the file name. White space around a caption
    is dropped and any within it becomes one space; nothing else is changed. Blank captions are left out.

    `root` has `val2014/`, and `captions_val2014.json` in `annotations/` (as in the official archives) or directly.
    """
    annotations = find_captions(root)
    if annotations is None or not (root / FOLDER).is_dir():
        missing = FILE if annotations is None else FOLDER
        raise FileNotFoundError(f"no {missing} in {root}; `ediffi evaluate prepare coco2014` says where to get it")
    content = read_json(annotations)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{annotations} has no images and annotations; COCO's {FILE} is needed")
    names, shapes = photographs(entries(content["images"], f"images of {annotations}"), annotations)
    captions = entries(content["annotations"], f"annotations of {annotations}")
    items = captioned(captions, names, annotations)
    used = {item.image_id for item in items}
    protocol = {
        "source": SOURCE if (len(shapes), len(captions)) == (PICTURES, CAPTIONS) else "Images in COCO's layout",
        "annotations": {"file": annotations.name, "sha256": sha256(annotations)},
        "pictures": len(used),
        "captions": len(items),
        "pictures_without_captions": len(shapes) - len(used),
        "blank_captions_left_out": len(captions) - len(items),
        "words_per_caption": round(sum(len(item.caption.split()) for item in items) / len(items), 1),
        "caption_rule": "as annotated; white space around is dropped, and within becomes one space",
    }
    return PhotographDataset("coco2014", protocol, items, shapes, (root / FOLDER).joinpath)


def find_captions(root: Path) -> Path | None:
    """The captions file in `root/annotations`, where the official archive has it, or in `root`; None without."""
    return next((path for path in (root / "annotations" / FILE, root / FILE) if path.is_file()), None)


def photographs(images: list[dict[str, Any]], path: Path) -> tuple[dict[int, str], dict[str, tuple[int, int]]]:
    """Of the "images" of an annotations file: file names by id, and (width, height) by file name."""
    names, shapes = file_names(images, path), {}
    for (key, name), image in zip(names.items(), images, strict=True):
        what = f"image {key} of {path}"
        if "/" in name:
            raise ValueError(f"{what} has the file_name {name!r:.60}; the name of a file without folders is needed")
        shapes[name] = integer(image, "width", what, 1), integer(image, "height", what, 1)
    return names, shapes


def file_names(images: list[dict[str, Any]], path: Path) -> dict[int, str]:
    """Of the "images" of an annotations file: file names, which may have folders, by id."""
    names: dict[int, str] = {}
    seen = set[str]()
    for index, image in enumerate(images):
        key = integer(image, "id", f"image {index} of {path}")
        what, name = f"image {key} of {path}", image.get("file_name")
        if not isinstance(name, str) or name in {"", ".", ".."} or "\\" in name or "\0" in name:
            raise ValueError(f"{what} has the file_name {name!r:.60}; the name of a file is needed")
        if key in names or name in seen:
            raise ValueError(f"{what}, {name}, is listed twice")
        names[key] = name
        seen.add(name)
    return names


def captioned(annotations: list[dict[str, Any]], names: Mapping[int, str], path: Path) -> list[CaptionedImage]:
    """Of the "annotations" of an annotations file: every caption that is not blank. `names` are of files, by id."""
    if annotations and not any("caption" in annotation for annotation in annotations):
        keys = ", ".join(sorted(annotations[0])[:4])
        raise ValueError(f"{path} has annotations of another kind ({keys}, no caption); COCO's {FILE} is needed")
    items, seen = [], set()
    for index, annotation in enumerate(annotations):
        key = integer(annotation, "id", f"annotation {index} of {path}")
        what, caption = f"annotation {key} of {path}", annotation.get("caption")
        if key in seen:
            raise ValueError(f"{what} is listed twice")
        if not isinstance(caption, str):
            raise ValueError(f"{what} has no caption")
        image = integer(annotation, "image_id", what)
        if image not in names:
            raise ValueError(f"{what} has the image_id {image}, and there is no such image")
        seen.add(key)
        if text := tidy(caption, what):
            items.append(CaptionedImage(str(key), text, names[image]))
    if not items:
        raise ValueError(f"{path} has no captions")
    return items
