"""What is known of a folder of shards: counts, hashes, and whose embeddings are in them. `index.json` beside them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ediffi.io import urls
from ediffi.io.files import replace

INDEX = "index.json"
FORMAT = "ediffi-shards-1"


@dataclass(frozen=True)
class Shard:
    """A shard as the index tells it.

    Attributes:
        place: a file or URL.
        samples: complete ones.
        sha256: of the file.
        bytes: of the file; None where an old index does not say.
    """

    place: str
    samples: int
    sha256: str
    bytes: int | None = None

    @property
    def path(self) -> Path:
        """The file, where it is one."""
        return Path(self.place)


@dataclass(frozen=True)
class Index:
    """The index of a folder.

    Attributes:
        place: of the index itself.
        shards: in order.
        encoders: by source, what is known of the encoder whose embeddings the shards hold: "name" in the registry,
            "sha256" of its folder or "revision" of the Hub, "width", "pooled_width", "dtype" it computed in.
        dtype: of the embeddings, "bfloat16"; None if it does not say.
        content: all of it.
    """

    place: str
    shards: list[Shard]
    encoders: Mapping[str, Mapping[str, Any]]
    dtype: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Of all shards."""
        return sum(shard.samples for shard in self.shards)

    @classmethod
    def read(cls, folder: Path | str, complete: bool = True) -> "Index":
        """The index of a folder or URL; shards at a URL are not looked for before they are read.

        Args:
            folder: a folder or URL.
            complete: all shards have to be there.

        Raises:
            FileNotFoundError: the folder has no index, or a shard of it is missing.
            OSError: a URL cannot be read.
            ValueError: the index is not one of ours, lists no samples, or files that are not in the folder.
        """
        place = urls.join(str(folder), INDEX)
        if not urls.exists(place):
            raise FileNotFoundError(
                f"no {INDEX} in {urls.redact(str(folder))}: write the shards first (ediffi embed, or ediffi toybox "
                "shards for a try), or an index of those that are there (ediffi data index)"
            )
        index = _parsed(urls.read_bytes(place), str(folder), place)
        for shard in index.shards:
            if complete and not urls.is_remote(shard.place) and not shard.path.is_file():
                raise FileNotFoundError(f"{place} lists {shard.path.name}, which is not there")
        if not index.samples:
            raise ValueError(f"{urls.redact(place)} lists no samples")
        return index


def read_index(folder: Path | str) -> list[Shard]:
    """The shards of a folder or URL; raises as `Index.read` does."""
    return Index.read(folder).shards


def write_index(index: Path, shards: list[dict[str, Any]], description: Mapping[str, Any]) -> Path:
    """Write an index, beside its place and then into it.

    Args:
        index: its path.
        shards: "file", "samples", "bytes" and "sha256" of each; and what else is known.
        description: plain JSON values kept in the index (encoders, picture size, seed).
    """
    replace(index, json.dumps({"format": FORMAT, **description, "shards": shards}, indent=1).encode())
    return index


def check_embeddings(index: Index, expected: Mapping[str, str | Mapping[str, Any]], dtype: str | None = None) -> None:
    """Make sure that shards hold the embeddings that a training run expects.

    What an old index does not say of an encoder cannot be checked, and passes.

    Args:
        index: of the shards.
        expected: by source, the encoder's registry name, or some of "name", "sha256", "revision", "width",
            "pooled_width".
        dtype: of the embeddings, such as "bfloat16"; None for any.

    Raises:
        ValueError: a source is missing, or is of another encoder, or the embeddings have another dtype.
    """
    for source, wanted in expected.items():
        found = index.encoders.get(source)
        if found is None:
            there = ", ".join(sorted(index.encoders)) or "none"
            raise ValueError(
                f"the shards of {urls.redact(index.place)} have no embeddings {source!r}; they have {there}"
            )
        for what, value in ({"name": wanted} if isinstance(wanted, str) else wanted).items():
            if found.get(what, value) != value:
                raise ValueError(
                    f"the embeddings {source!r} in the shards of {urls.redact(index.place)} are of another encoder: "
                    f"{what} {found[what]!r}, where {value!r} is expected; embed the pictures again (ediffi embed)"
                )
    if dtype is not None and index.dtype not in (None, dtype):
        raise ValueError(
            f"the embeddings in the shards of {urls.redact(index.place)} are {index.dtype}, and {dtype} is expected; "
            "embed the pictures again (ediffi embed)"
        )


def check_same_encoders(first: Index, second: Index) -> None:
    """Make sure that two sets of shards, for training and for validation, are of the same encoders and dtype.

    Raises:
        ValueError: they are not.
    """
    told = ("name", "sha256", "revision", "width", "pooled_width")
    known = {source: {k: v for k, v in e.items() if k in told} for source, e in first.encoders.items()}
    if second.encoders:
        check_embeddings(second, known, first.dtype)


def _parsed(data: bytes, folder: str, place: str) -> Index:
    try:
        content = json.loads(data)
        shards = [
            Shard(urls.join(folder, _inside(s["file"])), int(s["samples"]), str(s["sha256"]), s.get("bytes"))
            for s in content["shards"]
        ]
        encoders = {
            str(source): {"name": encoder} if isinstance(encoder, str) else dict(encoder)
            for source, encoder in content.get("encoders", {}).items()
        }
        return Index(place, shards, encoders, content.get("dtype"), content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{urls.redact(place)} is not an index of shards: {error}") from None


def _inside(name: Any) -> str:
    """A file name of an index, if it stays in the folder."""
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in str(name) or "\\" in str(name):
        raise ValueError(f"it lists {name!r}, which is not a file of its folder")
    return str(path)
