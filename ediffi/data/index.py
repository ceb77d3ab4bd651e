"""`index.json` beside shards: their sample counts and hashes, and which encoders made the embeddings in them."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ediffi.io import plain_json, urls

INDEX = "index.json"
FORMAT = "ediffi-shards-1"
logger = logging.getLogger(__name__)
IDENTITY = ("name", "sha256", "revision", "width", "pooled_width")  # what tells one encoder from another


@dataclass(frozen=True)
class Shard:
    """A shard in an index: its path or URL, and what a reader can check. `sides`, `smallest` and `transparent` are
    those of `ImageFacts`. Old indexes lack these and `bytes`: None. `captions` is by source what `ediffi embed` has
    recorded of them (`Reading`), `encoders` what the index knows of the encoders of its embeddings."""

    url: str
    samples: int
    sha256: str
    bytes: int | None = None
    sides: Mapping[int, int] | None = None
    smallest: str | None = None
    transparent: int | None = None
    captions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Its path, for a local file."""
        return Path(self.url)

    def samples_from(self, side: int) -> int:
        """How many samples have an image whose shortest side is at least this; all, if the index does not know."""
        if self.sides is None:
            return self.samples
        return sum(count for one, count in self.sides.items() if one >= side)


@dataclass(frozen=True)
class Index:
    """The index at `url`: its shards in order, and by source what is known of its encoder (at least `IDENTITY`, if
    recorded). `dtype` is that of the embeddings ("bfloat16"), if recorded; `content` is the whole file but its own
    "sha256"."""

    url: str
    shards: list[Shard]
    encoders: Mapping[str, Mapping[str, Any]]
    dtype: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def identities(self) -> dict[str, dict[str, Any]]:
        """By source, what `IDENTITY` lists of its encoder."""
        return {source: {k: v for k, v in known.items() if k in IDENTITY} for source, known in self.encoders.items()}

    def digest(self, least_side: int = 0) -> str:
        """SHA-256 of what a run sees of the shards: their hashes, in order, and how many samples it reads of each."""
        rows = [[shard.sha256, shard.samples_from(least_side)] for shard in self.shards]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path | str, complete: bool = True) -> "Index":
        """The index of a folder or URL; if it must be `complete`, a missing local shard raises FileNotFoundError.
        ValueError: another format, no samples, a file outside of the folder, content that is not that of its "sha256",
        or, if complete, a local shard beside it that it does not list. A URL is not asked for its shards."""
        url = urls.join(str(folder), INDEX)
        if not urls.exists(url):
            ways = "write the shards first (ediffi embed, ediffi toybox shards), or their index (ediffi data index)"
            raise FileNotFoundError(f"no {INDEX} in {urls.redact(str(folder))}: {ways}")
        index = _parsed(urls.read_bytes(url), str(folder), url)
        if complete:
            _check_listed(index, str(folder))
        for shard in index.shards:
            if complete and not urls.is_remote(shard.url) and not shard.path.is_file():
                raise FileNotFoundError(f"{url} lists {shard.path.name}, which is not there")
        if not index.samples:
            raise ValueError(f"{urls.redact(url)} lists no samples")
        return index


Place = TypeVar("Place", Path, str)


def write_index(index: Place, shards: list[dict[str, Any]], description: Mapping[str, Any]) -> Place:
    """Write an index with an entry for each shard (file, samples, bytes, sha256, ...) and more JSON values; its own
    "sha256", also if `description` has that of another, is that of them all."""
    content = plain_json.loads(json.dumps({"format": FORMAT, **description, "shards": shards}))
    content.pop("sha256", None)
    urls.write_bytes(str(index), json.dumps({"sha256": _digest(content), **content}, indent=1))
    return index


def indexed_shards(shards: Sequence[str]) -> dict[str, Shard]:
    """The shards that an index in their own folder lists, by path or URL; ValueError if such an index is broken."""
    folders = dict.fromkeys(map(urls.parent, shards))
    indexes = [Index.read(folder, complete=False) for folder in folders if _has_index(folder)]
    return {shard.url: shard for index in indexes for shard in index.shards}


def embedded_encoders(shards: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """By source, the encoders whose embeddings shards have, as the index in their own folder says; ValueError if this
    differs from folder to folder."""
    folders = dict.fromkeys(map(urls.parent, shards))
    found = {folder: Index.read(folder, complete=False).encoders if _has_index(folder) else {} for folder in folders}
    (first, encoders), *others = found.items()
    if differs := [folder for folder, other in others if other != encoders]:
        both = f"{urls.redact(first)} and {urls.redact(differs[0])}"
        raise ValueError(f"the shards of {both} have embeddings of different encoders: embed them in two runs")
    return dict(encoders)


def check_embeddings(index: Index, expected: Mapping[str, str | Mapping[str, Any]], dtype: str | None = None) -> None:
    """Check that shards have the embeddings that training expects: by source, a registry name or some of `IDENTITY`.
    What an old index does not record passes. ValueError: a source is missing, or an encoder or the dtype differs."""
    shards, advice = f"the shards of {urls.redact(index.url)}", "embed the images again (ediffi embed)"
    for source, wanted in expected.items():
        found = index.encoders.get(source)
        if found is None:
            there = ", ".join(sorted(index.encoders)) or "none"
            raise ValueError(f"{shards} have no embeddings {source!r}; they have {there}")
        for what, value in ({"name": wanted} if isinstance(wanted, str) else wanted).items():
            if found.get(what, value) != value:
                differs = f"{what} {found[what]!r}, where {value!r} is expected"
                raise ValueError(f"the embeddings {source!r} in {shards} are of another encoder: {differs}; {advice}")
    if dtype is not None and index.dtype not in (None, dtype):
        raise ValueError(f"the embeddings in {shards} are {index.dtype}, and {dtype} is expected; {advice}")


def check_background(index: Index, background: str) -> None:
    """ValueError if the embeddings of an index are of images on another background than that of training."""
    if (embedded := index.content.get("background", background)) != background:
        were = f"the images in {urls.redact(index.url)} were embedded on the background {embedded!r}"
        raise ValueError(f"{were}, and data.background is {background!r}: use that, or embed them again (ediffi embed)")


def check_sizes(index: Index, image_size: int, skip_small: bool = False, max_skipped: float = 0.0) -> None:
    """Check that the images of an index can be read and are large enough, as far as it records their sizes. Those that
    are not are counted in a warning, and one is named. ValueError: they are more than the share `max_skipped` of all,
    where with `skip_small` images that are smaller than `image_size` do not count; or nothing is left."""
    unknown = sum(shard.sides is None for shard in index.shards)
    if unknown and skip_small:
        what = f"data.skip_small needs image sizes, and {urls.redact(index.url)} does not record them"
        raise ValueError(f"{what}: complete it (ediffi data index)")
    known = [shard for shard in index.shards if shard.sides]
    broken = sum(shard.samples - shard.samples_from(1) for shard in known)
    small = sum(shard.samples_from(1) - shard.samples_from(image_size) for shard in known)
    if not broken + small:
        return
    shard = min(known, key=lambda shard: min(shard.sides or [0]))
    there = f"sample {shard.smallest!r} of {urls.redact(shard.url)}"
    found, advice = [], "filter them away (ediffi data filter)"
    if broken:
        found.append(f"{broken:,} of {index.samples:,} images cannot be read, one is that of {there}")
        advice = f"`ediffi data verify` names all such images; {advice}"
    if small:
        named = "" if broken else f", the smallest has {min(shard.sides or [0])}: {there}"
        found.append(
            f"{small:,} of {index.samples:,} images have a shortest side below image_size ({image_size}){named}"
        )
        advice = f"leave small ones out (data.skip_small), or {advice}"
    limit = max_skipped * index.samples
    if broken + (0 if skip_small else small) > limit or broken + small == index.samples:
        raise ValueError(f"{'; '.join(found)}; data.max_skipped allows {max_skipped:.3g} of all; {advice}")
    logger.warning("%s; they are left out", "; ".join(found))


def _has_index(folder: str) -> bool:
    """Whether an index of ours is in a folder; other programs write files of that name too."""
    url = urls.join(folder, INDEX)
    try:
        return bool(urls.exists(url) and plain_json.loads(urls.read_bytes(url))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


Count = Annotated[int, Field(ge=0, le=10**12)]


class _Entry(BaseModel):
    """What is read of a shard's entry in an index; there may be more."""

    model_config = ConfigDict(strict=True)
    file: str
    samples: Count
    sha256: str
    bytes: Count | None = None
    sides: dict[int, Count] | None = None
    smallest: str | None = None
    transparent: Count | None = None
    captions: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _all_have_sides(self) -> "_Entry":
        if self.sides is not None and (counted := sum(self.sides.values())) != self.samples:
            raise ValueError(f"its sides are those of {counted} samples, and it has {self.samples}")
        return self


class _Encoder(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str | None = None
    sha256: str | None = None
    revision: str | None = None
    width: Count | None = None
    pooled_width: Count | None = None


class _Content(BaseModel):
    """What is read of an index; there may be more."""

    model_config = ConfigDict(strict=True)
    sha256: str | None = None
    encoders: dict[str, str | _Encoder] = {}
    dtype: str | None = None
    background: str | None = None
    shards: list[_Entry]


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the values of an index, however they are laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_listed(index: Index, folder: str) -> None:
    """ValueError if a local folder has a shard that its index does not list."""
    if urls.is_remote(folder):
        return
    tars = {urls.join(folder, name) for name in urls.names(folder) if name.endswith(".tar")}
    if more := sorted(tars - {shard.url for shard in index.shards}):
        there = f"{Path(more[0]).name} is in {folder}, and {INDEX} does not list it"
        raise ValueError(f"{there}: move it, or remove {INDEX} and write it again (ediffi data index)")


def _parsed(data: bytes, folder: str, url: str) -> Index:
    try:
        read, content = _Content.model_validate_json(data), plain_json.loads(data)
        digest = content.pop("sha256", None)
        if digest is not None and digest != _digest(content):
            advice = 'remove it and write it again (ediffi data index), or, if you changed it, remove its "sha256"'
            raise ValueError(f"its content is not that of its sha256: {advice}")
        encoders = {
            source: {"name": encoder} if isinstance(encoder, str) else encoder
            for source, encoder in content.get("encoders", {}).items()
        }
        shards = [
            Shard(urls.join(folder, _inside(one.file)), encoders=encoders, **one.model_dump(exclude={"file"}))
            for one in read.shards
        ]
        return Index(url, shards, encoders, read.dtype, content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{urls.redact(url)} is not an index of shards: {place or 'it'}: {first['msg']}") from None
    except ValueError as error:
        raise ValueError(f"{urls.redact(url)} is not an index of shards: {error}") from None


def _inside(name: Any) -> str:
    """A file name in an index, if it stays in the folder."""
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in str(name) or "\\" in str(name):
        raise ValueError(f"it lists {name!r}, which is not a file of its folder")
    return str(path)
