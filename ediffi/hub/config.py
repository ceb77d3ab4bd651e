"""The `config.json` of a model folder: registry names and plain arguments, one weights file per expert, sha256 of all.

Nothing in it names Python code, and nothing is unpickled: a folder from elsewhere can only choose among registered
parts. Here it is read and checked as plain data; `ediffi.pipeline.checkpoint` builds a cascade from it.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_type_hints

from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import interval_from
from ediffi.hub import manifest, models
from ediffi.hub.finding import CONFIG
from ediffi.io.files import CheckedFile, sha256
from ediffi.io.hub_client import FILE
from ediffi.registry import denoisers, encoders, samplers
from ediffi.registry.core import DISTRIBUTION, Registry, UnknownNameError

FORMAT = manifest.FORMAT
WEIGHTS = re.compile(manifest.WEIGHTS)
SUFFIXES = (".json", ".safetensors", ".model", ".txt")
"""Files of an encoder: settings, weights, tokenizers. Nothing that would have to be unpickled."""
HARMLESS = (".md", ".png", ".jpg", "")
"""Suffixes of files beside them that no library reads: README.md, LICENSE."""
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
TOLD = ("sigma_data", "head_channels", "norm_groups", "residual")
"""Arguments of a denoiser that change what it computes, and no shape of its weights."""
PACKAGE = re.compile(r"[A-Za-z0-9][\w.-]* [0-9][\w.+!-]*|[A-Za-z0-9][\w.-]*")
"""A distribution, with its version; a config comes from elsewhere, so no other text of it is shown to a user."""

Entry = Mapping[str, Any]
"""The whole config, or a stage in it."""


@dataclass(frozen=True)
class Part:
    """A registered part by name, with its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def uncomposed(self, encoder_files: Path | None) -> "Part":
        """The part of a recipe before its cascade is composed: `encoders/` is still the folder `encoder_files`."""
        first, _, rest = str(self.arguments.get("path")).partition("/")
        if encoder_files is None or first != "encoders":
            return self
        return Part(self.name, {**self.arguments, "path": str(models.shipped_path(encoder_files) / rest)})


@dataclass(frozen=True)
class ListedExpert:
    """An expert as the config lists it, with its weights file and the sha256 of that file."""

    expert: Expert
    file: str
    sha256: str


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`; ValueError if it is not JSON, or has another format."""
    path = folder / CONFIG
    config = manifest.read_json(path)
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        number = re.fullmatch(r"ediffi-cascade-(\d+)", str(found))
        hint = "" if number else ", so it is no model of ediffi"
        if number and int(number[1]) > int(FORMAT.rpartition("-")[2]):
            hint = ", so it needs a newer one: pip install --upgrade ediffi"
        raise ValueError(f"{path} has the format {found!r}; this version reads {FORMAT!r}{hint}")
    manifest.check(config, str(path))
    for entry in config["stages"]:
        part = entry["denoiser"]
        _check_arguments(denoisers.REGISTRY, part, path)
        known = denoisers.REGISTRY.arguments(part["name"]) if part["name"] in denoisers.REGISTRY else []
        if lacking := [name for name in TOLD if name in known and name not in part["arguments"]]:
            raise ValueError(f"{path} is not a complete {FORMAT}: {part['name']} has no {lacking[0]}")
    for part in config["encoders"].values():
        _check_arguments(encoders.REGISTRY, part, path)
    return dict(config)


def _check_arguments(registry: Registry[Any], part: Entry, path: Path) -> None:
    """ValueError if a part lacks an argument, or one is of another type; parts that are unknown are told later."""
    if part["name"] in registry:
        for name, parameter in inspect.signature(registry.factory(part["name"])).parameters.items():
            if parameter.default is parameter.empty and parameter.kind in NAMED and name not in part["arguments"]:
                raise ValueError(f"{path} is not a complete {FORMAT}: {part['name']} has no {name}")
        for name, hint in get_type_hints(registry.factory(part["name"])).items():
            if name in part["arguments"] and not manifest.is_a(part["arguments"][name], hint):
                shown = repr(part["arguments"][name])[:60]
                raise ValueError(f"{path}: {name} of {part['name']} must be {_words(hint)}, got {shown}")


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn the errors of code that reads a config with a missing or misplaced key into one ValueError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is not a complete {FORMAT}: {error}") from None


def encoder_parts(config: Entry) -> dict[str, Part]:
    """The encoders, by source."""
    return {source: Part(**entry) for source, entry in config["encoders"].items()}


def first_stages(config: Entry, names: Sequence[str] | None) -> list[Entry]:
    """The entries of the named stages, base stage first; all by default. ValueError unless they are the first ones."""
    entries: list[Entry] = list(config["stages"])
    if names is None:
        return entries
    known = [entry["name"] for entry in entries]
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"{config['name']} has no stage {unknown[0]!r}; its stages are {', '.join(known)}")
    if not wanted or sorted(wanted) != sorted(known[: len(wanted)]):
        raise ValueError(
            f"stages must be the first of {', '.join(known)}, since each enlarges the image of the one before; "
            f"got {', '.join(wanted) or 'none'}"
        )
    return entries[: len(wanted)]


def listed_experts(stage: Entry) -> list[ListedExpert]:
    """The experts of a stage, from low to high noise."""
    rows = []
    for row in stage["experts"]:
        parent = None if row["parent"] is None else interval_from(row["parent"])
        expert = Expert(interval_from(row["interval"]), parent, row["steps"])
        rows.append(ListedExpert(expert, row["file"], row["sha256"]))
    return sorted(rows, key=lambda row: row.expert.interval.spans)


def expert_file(folder: Path, row: ListedExpert) -> CheckedFile:
    """The weights file of an expert, not checked yet; ValueError if it is outside the folder."""
    if Path(row.file).name != row.file:
        raise ValueError(f"the file of expert {row.expert.interval} must be in {folder} itself, got {row.file!r}")
    return CheckedFile(folder / row.file, row.sha256, f"the expert of noise {row.expert.interval}")


def weight_files(stages: Sequence[Entry]) -> list[str]:
    """The weights files of stages; ValueError for a name that is no safetensors file in the folder itself."""
    names = [row.file for stage in stages for row in listed_experts(stage)]
    for name in names:
        if not WEIGHTS.fullmatch(name):
            raise ValueError(f"{CONFIG} names {name!r} as weights; it must be a safetensors file beside {CONFIG}")
    return names


def encoder_files(config: Entry) -> list[str]:
    """Paths in the folder of the encoders' files; patterns for a config of an older version, which lists none.

    A path that leads out of the folder is a ValueError: nothing outside is written or read for a config from elsewhere.
    """
    paths = [part.arguments.get("path") for part in encoder_parts(config).values()]
    places = [str(PurePosixPath(path)) for path in paths if isinstance(path, str)]
    for place in places:
        if place.startswith(("/", "~")) or ".." in place.split("/") or "*" in place:
            raise ValueError(f"{CONFIG} names {place!r} as the path of an encoder, which leads out of its folder")
    if "files" not in config:
        return [f"{place}/*{suffix}" for place in dict.fromkeys(places) for suffix in SUFFIXES]
    names = list(config["files"])
    for name in names:
        if not name.endswith(SUFFIXES) or ".." in name or not FILE.fullmatch(name):
            raise ValueError(f"{CONFIG} lists {name!r}, which is no file of an encoder in its folder")
    return [name for name in names if name.startswith(tuple(f"{place}/" for place in places))]


def inside(folder: Path, part: Part) -> Path | None:
    """The folder of an encoder's files, if its `path` lies in the model folder."""
    path = part.arguments.get("path")
    if isinstance(path, str) and (folder / path).is_dir() and not Path(path).is_absolute():
        return folder / path
    return None


def encoder_file_names(folder: Path, parts: Mapping[str, Part]) -> list[str]:
    """The encoder files that a folder has, as paths in it."""
    places = sorted({place for part in parts.values() if (place := inside(folder, part)) is not None})
    found = (path for place in places for path in sorted(place.rglob("*")))
    return [path.relative_to(folder).as_posix() for path in found if path.is_file() and path.suffix in SUFFIXES]


def find_encoder_files(folder: Path, parts: Mapping[str, Part]) -> dict[str, str]:
    """The sha256 of each encoder file that a folder has, by its path in the folder."""
    return {name: sha256(folder / name) for name in encoder_file_names(folder, parts)}


def listed_encoder_files(folder: Path, config: Entry) -> list[CheckedFile]:
    """The encoders' files that the config lists, not checked yet; none for a config of an older version.

    ValueError if an encoder's folder has a file that is not listed: libraries read what lies beside the weights.
    """
    if "files" not in config:
        return []
    places = {place for part in encoder_parts(config).values() if (place := inside(folder, part)) is not None}
    found = {path for place in places for path in place.rglob("*") if path.suffix not in HARMLESS and path.is_file()}
    if extra := sorted({path.relative_to(folder).as_posix() for path in found} - set(config["files"])):
        raise ValueError(f"{folder / extra[0]} is not listed in {CONFIG}, and could change an encoder: remove it")
    return [CheckedFile(folder / name, str(digest), "a file of an encoder") for name, digest in config["files"].items()]


def check_registered(config: Entry, stages: Sequence[Entry], where: str) -> None:
    """Make sure that every part is registered here; an UnknownNameError names the package that the author used."""
    for registry, name in _names(stages, config["encoders"]):
        try:
            registry.factory(name)
        except UnknownNameError as error:
            package = config.get("packages", {}).get(f"{registry.kind}/{name}")
            known = isinstance(package, str) and PACKAGE.fullmatch(package)
            hint = f"install the plug-in {package}" if known else "the plug-in that has it may not be installed"
            raise UnknownNameError(f"{where}: {error}; {hint}") from None


def packages(stages: Sequence[Entry], encoders: Mapping[str, Entry]) -> dict[str, str]:
    """The distribution of each part that is not ours, as `config.json` records it; read by people only."""
    origins = {f"{r.kind}/{name}": r.origin(name) for r, name in _names(stages, encoders) if name in r}
    return {name: origin for name, origin in origins.items() if origin != DISTRIBUTION}


def _names(stages: Sequence[Entry], parts: Mapping[str, Entry]) -> Iterator[tuple[Registry[Any], str]]:
    for stage in stages:
        yield denoisers.REGISTRY, stage["denoiser"]["name"]
        yield samplers.REGISTRY, stage["sampling"]["sampler"]
    for part in parts.values():
        yield encoders.REGISTRY, part["name"]
