"""Rows of Parquet files, as datasets on the Hub have them: the content of images stays in the file until it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from ediffi.io.tables import Row

SUFFIX = ".parquet"
_reading = Lock()


@dataclass(frozen=True)
class StoredImage:
    """An image whose content is in a column of a Parquet file."""

    path: Path
    column: str
    group: int
    row: int  # of its group

    def read_bytes(self) -> bytes:
        """Its content; empty where the column has none."""
        with _reading:  # one thread reads a group, and the others find it
            content = _group(self.path, self.column, self.group)[self.row].as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        return content or b""


def image_columns(path: Path) -> list[str]:
    """The columns that hold the content of images: bytes, or a struct with `bytes`, as the Hub's image columns are."""
    return [one.name for one in _open(path).schema_arrow if _is_bytes(one.type)]


def columns(path: Path) -> list[str]:
    """The names of all columns."""
    return list(_open(path).schema_arrow.names)


def read_rows(path: Path, image: str) -> Iterator[Row]:
    """The rows: texts, lists and numbers by column, and the image as a `StoredImage` if its column holds contents."""
    file = _open(path)
    stored = image in image_columns(path)
    plain = [one.name for one in file.schema_arrow if not _is_bytes(one.type)]
    number = 0
    for group in range(file.num_row_groups):
        with _naming(path):
            rows = file.read_row_group(group, columns=plain).to_pylist()
        for index in range(file.metadata.row_group(group).num_rows):
            row = rows[index] if plain else {}
            kept = {name: value for name, value in row.items() if isinstance(value, str | int | float | list | None)}
            yield f"{path}, row {number}", kept | ({image: StoredImage(path, image, group, index)} if stored else {})
            number += 1


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))


@lru_cache(maxsize=1)
def _group(path: Path, column: str, group: int) -> Any:
    with _naming(path):
        return _open(path).read_row_group(group, columns=[column])[column]


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:  # it is not there, or was built for another NumPy
        raise ValueError(f"reading {path} needs pyarrow: pip install 'ediffi[data]' ({error})") from None
    with _naming(path):
        return pyarrow.parquet.ParquetFile(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of a broken file as a ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow raises several classes of its own, and OSError
        raise ValueError(f"{path} is not a Parquet file that can be read: {str(error).partition(chr(10))[0]}") from None
