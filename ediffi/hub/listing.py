"""What a `config.json` says of a model: which files it consists of, which parts it is built of, who brings those."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ediffi.io.files import sha256
from ediffi.pipeline.manifest import Part, listed
from ediffi.registry import denoisers, encoders, samplers
from ediffi.registry.core import HOUSE, Registry, UnknownNameError

WEIGHTS = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")
SUFFIXES = (".json", ".safetensors", ".model", ".txt")
"""Files that an encoder consists of: settings, weights, tokenizers. Nothing that would have to be unpickled."""
PACKAGE = re.compile(r"[A-Za-z0-9][\w.-]* [0-9][\w.+!-]*|[A-Za-z0-9][\w.-]*")
"""A distribution, with its version; a config is from elsewhere, so nothing else of it is repeated to a user."""

Entry = Mapping[str, Any]
"""A stage in `config.json`."""


def chosen(config: Entry, stages: Sequence[str] | None) -> list[Entry]:
    """The entries of stages, base first; all of them by default.

    Raises:
        ValueError: one is not there, or they are not the first ones, each of which needs the picture of the one before.
    """
    entries: list[Entry] = list(config["stages"])
    if stages is None:
        return entries
    names = [entry["name"] for entry in entries]
    wanted = [stages] if isinstance(stages, str) else list(stages)
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"{config['name']} has no stage {unknown[0]!r}; its stages are {', '.join(names)}")
    if not wanted or set(wanted) != set(names[: len(wanted)]) or len(set(wanted)) != len(wanted):
        raise ValueError(
            f"stages must be the first of {', '.join(names)}, since each enlarges the picture of the one before; "
            f"got {', '.join(wanted) or 'none'}"
        )
    return entries[: len(wanted)]


def weights(entries: Sequence[Entry]) -> list[str]:
    """The files of the experts of stages.

    Raises:
        ValueError: a name cannot be that of a file of weights.
    """
    names = [row.file for entry in entries for row in listed(entry)]
    for name in names:
        if not WEIGHTS.fullmatch(name):
            raise ValueError(f"config.json names {name!r} as weights; a safetensors file beside it is meant")
    return names


def encoder_files(config: Entry) -> list[str]:
    """The files of the encoders that lie in the folder, by their path in it; patterns where the config lists none.

    Raises:
        ValueError: a path leads out of the folder.
    """
    places = [str(PurePosixPath(path)) for path in _paths(config)]
    for place in places:
        if place.startswith(("/", "~")) or ".." in place.split("/") or "*" in place:
            raise ValueError(f"config.json names {place!r} as the path of an encoder, which leads out of its folder")
    if "files" not in config:
        return [f"{place}/*{suffix}" for place in dict.fromkeys(places) for suffix in SUFFIXES]
    names = list(config["files"])
    for name in names:
        if not name.endswith(SUFFIXES) or ".." in name.split("/") or name.startswith("/") or "*" in name:
            raise ValueError(f"config.json lists {name!r}, which is no file of an encoder in its folder")
    return [name for name in names if name.startswith(tuple(f"{place}/" for place in places))]


def find_encoder_files(folder: Path, parts: Mapping[str, Part]) -> dict[str, str]:
    """The hash of each file of the encoders that lie in a folder, by its path in it."""
    places = sorted({path for part in parts.values() if (path := _inside(folder, part)) is not None})
    found = (path for place in places for path in sorted(place.rglob("*")))
    return {str(p.relative_to(folder).as_posix()): sha256(p) for p in found if p.is_file() and p.suffix in SUFFIXES}


def check_files(folder: Path, config: Entry) -> None:
    """Make sure that the encoders' files are those that the config lists.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one does not have the hash it should.
    """
    for name, digest in config.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, a file of an encoder; the folder is incomplete")
        if (found := sha256(path)) != digest:
            raise ValueError(
                f"{path} has sha256 {found[:12]}..., config.json says {str(digest)[:12]}...: truncated or changed"
            )


def check_registered(config: Entry, entries: Sequence[Entry], where: str) -> None:
    """Make sure that every part is known here.

    Raises:
        UnknownNameError: one is not; the message says which, and which package brought it where the model was made.
    """
    for registry, name in _names(entries, config["encoders"]):
        try:
            registry.factory(name)
        except UnknownNameError as error:
            package = config.get("packages", {}).get(f"{registry.kind}/{name}")
            told = package if isinstance(package, str) and PACKAGE.fullmatch(package) else None
            hint = (
                f"it came from {told}, a plug-in to install" if told else "a plug-in that is not installed may bring it"
            )
            raise UnknownNameError(f"{where}: {error}; {hint}") from None


def packages(entries: Sequence[Entry], encoder_parts: Mapping[str, Entry]) -> dict[str, str]:
    """Which distribution brings each part that is not ours, as `config.json` records it: text, for people only."""
    brought = {f"{r.kind}/{name}": r.origin(name) for r, name in _names(entries, encoder_parts) if name in r}
    return {name: origin for name, origin in brought.items() if origin != HOUSE}


def _names(entries: Sequence[Entry], encoder_parts: Mapping[str, Entry]) -> Iterator[tuple[Registry[Any], str]]:
    for entry in entries:
        yield denoisers.REGISTRY, entry["denoiser"]["name"]
        yield samplers.REGISTRY, entry["sampling"]["sampler"]
    for part in encoder_parts.values():
        yield encoders.REGISTRY, part["name"]


def _paths(config: Entry) -> list[str]:
    """The `path` of each encoder: in the folder, if anything is there; otherwise of a repository."""
    paths = [entry["arguments"].get("path") for entry in config["encoders"].values()]
    return [path for path in paths if isinstance(path, str)]


def _inside(folder: Path, part: Part) -> Path | None:
    path = part.arguments.get("path")
    return (
        folder / path if isinstance(path, str) and (folder / path).is_dir() and not Path(path).is_absolute() else None
    )
