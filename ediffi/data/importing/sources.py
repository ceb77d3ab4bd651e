"""Images with captions in a folder, as people have them.

What a folder has is found in this order: the table that the caller names; `metadata.csv`, `.jsonl` or `.parquet` in any
folder below, as in the image folders of Hugging Face; Parquet files that hold images, as datasets on the Hub do; a text
beside each image (`cat.jpg`, and `cat.txt`, `cat.caption` or `cat.json`), in any folder below; or else a table at the
top. What begins with a dot, and __MACOSX, is not looked at.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ediffi.data.importing import parquet
from ediffi.data.importing.parquet import StoredImage
from ediffi.data.shards import MAX_CAPTION
from ediffi.evaluation.datasets.annotations import tidy
from ediffi.evaluation.images.members import is_image
from ediffi.io.prompt_files import parse_json, read_text
from ediffi.io.tables import DELIMITERS, LINES, Row, read_table

IMAGE = frozenset(
    ("file_name", "filename", "file", "path", "filepath", "file_path", "image", "image_path", "image_file", "img",
     "picture")
)  # fmt: skip
CAPTION = frozenset(
    ("caption", "captions", "text", "prompt", "description", "title", "alt", "alt_text", "sentence", "sentences")
)  # fmt: skip
"""Names, in any case, of columns that need not be chosen."""
TEXTS = (".txt", ".caption")
TABLES = (*DELIMITERS, *LINES, parquet.SUFFIX)
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class Entry(NamedTuple):
    """An image to import, and a caption of it. `name` is where the image is, below the folder; the second caption of an
    image has the `number` 2. `metadata` is plain JSON that was found with it."""

    name: str
    number: int
    caption: str
    place: Path | StoredImage
    metadata: Mapping[str, Any]


@dataclass
class Found:
    """What a folder has; `kind` says where the captions are, `left_out` counts what has none, by reason."""

    kind: str
    entries: list[Entry] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    _times: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, captions: Sequence[str], place: Path | StoredImage, metadata: Mapping[str, Any]) -> None:
        """Add an entry for each caption of an image that is not blank."""
        name = name.encode(errors="surrogateescape").decode(errors="backslashreplace")  # a name that is no UTF-8
        written = [caption for caption in captions if caption and len(caption) <= MAX_CAPTION]
        if too_long := sum(len(caption) > MAX_CAPTION for caption in captions):
            self.left_out[f"with a caption of more than {MAX_CAPTION:,} characters"] += too_long
        elif not written:
            self.left_out["without a caption"] += 1
        for caption in written:
            self._times[name] += 1
            self.entries.append(Entry(name, self._times[name], caption, place, metadata))

    def line(self) -> str:
        """As a sentence."""
        images, captions = len({entry.name for entry in self.entries}), len(self.entries)
        several = f", {captions:,} captions" if captions > images else ""
        losses = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.most_common())
        return f"{images:,} images{several} ({self.kind}); left out: {losses or 'nothing'}"


class Columns(NamedTuple):
    """The columns of a table that its user chose; None for one that is to be found."""

    image: str | None = None
    caption: str | None = None


FOUND = Columns()


def find(root: Path, captions: Path | None = None, columns: Columns = FOUND, aside: Path | None = None) -> Found:
    """The images and captions of a folder; the module says where they are looked for.

    Args:
        root: the folder.
        captions: a table of one of `TABLES`, whose names of images begin in its own folder, or in `root`.
        columns: of the table; the caption's, also the field of a JSON file beside an image.
        aside: a folder in `root` that is not looked at.

    Raises:
        FileNotFoundError: a folder or table is missing, or no image of a table is there.
        ValueError: nothing has a caption, a file is broken, or a column has to be chosen.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} with images and captions")
    files = list(_files(root, aside))
    tables = [captions] if captions else _tables(root, files)
    if not tables and columns.image is not None:
        raise ValueError(f"--image-column is of a table, and {root} has none; --captions names one elsewhere")
    found = _of_tables(root, tables, columns) if tables else _of_texts(root, files, columns.caption)
    if not found.entries:
        ways = "a text of its name beside each image, a metadata.csv, or a table (--captions)"
        raise ValueError(f"{root} has no image with a caption: {found.line()}; captions are in {ways}")
    return found


def _files(root: Path, aside: Path | None) -> Iterator[Path]:
    for folder, inside, names in os.walk(root):
        here = Path(folder)
        inside[:] = sorted(
            name for name in inside if name[0] != "." and name != "__MACOSX" and not _same(here / name, aside)
        )
        places = (here / name for name in sorted(names) if name[0] != ".")
        yield from (place for place in places if place.is_file())  # a pipe would be waited for


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and one.resolve() == other.resolve()


def _tables(root: Path, files: Sequence[Path]) -> list[Path]:
    """The tables that have the captions of a folder; none if texts beside images have them."""
    if shards := [path for path in files if path.suffix == ".tar"]:
        raise ValueError(f"{root} has shards already, such as {shards[0].name}: give them to `ediffi embed`")
    if metadata := [path for path in files if path.name in METADATA]:
        return metadata
    if stored := [path for path in files if path.suffix == parquet.SUFFIX and parquet.image_columns(path)]:
        return stored
    there = set(files)
    if any(_beside(path, there) for path in files if is_image(path.name)):
        return []
    tables = [path for path in files if path.parent == root and path.suffix.lower() in TABLES]
    if len(tables) > 1:
        listed = ", ".join(path.name for path in tables[:8])
        raise ValueError(f"{root} has several tables: {listed}; --captions names the one with the captions")
    return tables


def _beside(image: Path, there: set[Path]) -> list[Path]:
    """The files that belong to an image: `cat.txt` or `cat.jpg.txt`, and the same with .caption and .json."""
    names = (name for suffix in (*TEXTS, ".json") for name in (image.with_suffix(suffix), Path(f"{image}{suffix}")))
    return [name for name in names if name in there]


def _of_texts(root: Path, files: Sequence[Path], column: str | None) -> Found:
    found, there, used, known = Found("a text beside each image"), set(files), set[Path](), column is None
    for path in files:
        if not is_image(path.name):
            continue
        used |= {path, *(beside := _beside(path, there))}
        about = next((_about(other) for other in beside if other.suffix == ".json"), dict[str, Any]())
        texts = [tidy(read_text(other), str(other)) for other in beside if other.suffix != ".json"][:1]
        known = known or column in about
        if column in about or not any(texts):
            texts = _captions(about, column or _obvious(about, path), f"the JSON of {path}")
        found.add(path.relative_to(root).as_posix(), texts, path, about)
    if not known:
        raise ValueError(f"no JSON file beside an image of {root} has the field {column!r} (--caption-column)")
    others = Counter(path.suffix.lower() or path.name for path in files if path not in used)
    found.left_out.update({f"other files ({suffix})": count for suffix, count in others.items()})
    return found


def _about(path: Path) -> dict[str, Any]:
    about = parse_json(read_text(path), str(path))
    if not isinstance(about, dict):
        raise ValueError(f"{path} must be an object, as it stands beside an image")
    return about


def _obvious(about: Mapping[str, Any], image: Path) -> str | None:
    """The field that has the caption, of the JSON beside an image that has no other."""
    found = [name for name in about if name.lower() in CAPTION]
    if len(found) > 1:
        raise ValueError(f"the JSON of {image} has {', '.join(found)}: --caption-column says which is the caption")
    return found[0] if found else None


def _of_tables(root: Path, tables: Sequence[Path], chosen: Columns) -> Found:
    found = Found(", ".join(path.name for path in tables[:3]) + (", ..." if len(tables) > 3 else ""))
    missing: list[str] = []
    for path in tables:
        if not path.is_file():
            raise FileNotFoundError(f"no table {path}")
        image, caption, rows = _read(path, chosen)
        for number, (where, row) in enumerate(rows):
            value = row.pop(image, None)
            captions = _captions(row, caption, where)
            if isinstance(value, StoredImage):
                inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
                found.add(f"{inside.with_suffix('').as_posix()}/{number:06d}", captions, value, row)
            elif (place := _place(root, path, value, where)) is None:
                missing.append(str(value))
            else:
                found.add(place.relative_to(root).as_posix(), captions, place, row)
    if missing and not found.entries:
        raise FileNotFoundError(
            f"none of the {len(missing):,} images of {found.kind} is in {root}, such as {missing[0]}"
        )
    found.left_out.update({f"images that are not there, such as {missing[0]}": len(missing)} if missing else {})
    return found


def _read(path: Path, chosen: Columns) -> tuple[str, str, Iterator[Row]]:
    """The column of the image, that of the caption, and the rows."""
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{path}: captions must be a file of {', '.join(TABLES)}")
    stored: list[str] = []
    if path.suffix == parquet.SUFFIX:
        names, stored = parquet.columns(path), parquet.image_columns(path)
    else:
        rows = read_table(path)
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{path} has no rows")
        names, rows = list(first[1]), chain([first], rows)
    of_images = stored if len(stored) == 1 else [name for name in names if name.lower() in IMAGE]
    image = _column(path, names, chosen.image, of_images, "image")
    rest = [name for name in names if name != image]
    of_captions = rest if len(rest) == 1 else [name for name in rest if name.lower() in CAPTION]
    caption = _column(path, names, chosen.caption, of_captions, "caption")
    if path.suffix == parquet.SUFFIX:
        rows = parquet.read_rows(path, image)
    return image, caption, rows


def _column(path: Path, names: Sequence[str], chosen: str | None, obvious: Sequence[str], what: str) -> str:
    listed = ", ".join(map(repr, names[:20]))
    if chosen is not None and chosen not in names:
        raise ValueError(f"{path} has no column {chosen!r} (--{what}-column); it has {listed}")
    if chosen is None and len(obvious) != 1:
        raise ValueError(f"say which column of {path} has the {what}s (--{what}-column); it has {listed}")
    return chosen if chosen is not None else obvious[0]


def _captions(row: dict[str, Any], column: str | None, where: str) -> list[str]:
    """The captions of a row, which leave it: a text, or a list of them; none for null."""
    value = row.pop(column, None) if column is not None else None
    texts = value if isinstance(value, list) else [] if value is None else [value]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: the caption in {column!r} must be a text, got {text!r:.60}")
    return [tidy(text, where) for text in texts]


def _place(root: Path, table: Path, value: Any, where: str) -> Path | None:
    """The file that a row names, below the folder of its table or `root`; None if there is none."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{where} names no image: {value!r:.60}")
    if value.startswith(("http://", "https://")):
        raise ValueError(
            f"{where} names a URL, {value:.80}: img2dataset downloads such a list, into shards for `ediffi embed`"
        )
    for base in dict.fromkeys((table.parent, root)):
        place = Path(os.path.normpath(root.absolute() / base.absolute() / value))
        if place.is_file():
            if not place.is_relative_to(root.absolute()):
                raise ValueError(f"{where} names {value!r:.80}, which is outside of {root}")
            return root / place.relative_to(root.absolute())
    return None
