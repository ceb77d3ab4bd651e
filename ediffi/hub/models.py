"""Checkpoints by name: those that ship with the package, and those of a team's own list files.

A list is a YAML file, and `EDIFFI_MODELS` names one or several of them, joined as paths are in `PATH`:

    birds:
      place: our-lab/birds            # a repository of the Hub, or a folder, relative to this file
      revision: 4f2a91c0d3e5...       # of a repository: a tag or a commit, so that the name always means the same
      description: finches and wrens, 256 pixels

Nothing here loads a model, or needs torch.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ediffi.io import plain_yaml
from ediffi.registry.core import HUB_ID

SHIPPED = Path(__file__).parent.parent / "weights"
LISTS = "EDIFFI_MODELS"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
MOVING = ("main", "master", "head")
"""Revisions that mean something else after the next upload."""
KEYS = ("place", "revision", "description")


@dataclass(frozen=True)
class Model:
    """A checkpoint with a name.

    Attributes:
        name: what it is asked for by, as in `--model birds`.
        place: "organisation/name" of a repository of the Hub if there is a revision; otherwise an absolute folder.
        revision: tag or commit of the repository.
        description: one line.
    """

    name: str
    place: str
    revision: str | None
    description: str


def find(name: str) -> Model | None:
    """The checkpoint called `name`, or None.

    Raises:
        OSError: a list file cannot be read.
        ValueError: a list file is not one; the message says what is wrong with it.
    """
    return _known().get(name)


def names(pattern: str = "*") -> list[str]:
    """Names of the checkpoints that match the shell pattern, sorted; raises as `find`."""
    return sorted(name for name in _known() if fnmatchcase(name, pattern))


def _known() -> dict[str, Model]:
    known = {model.name: model for model in _shipped()}
    origin = dict.fromkeys(known, "this package")
    for file in _list_files():
        for model in _listed(file):
            if model.name in known:
                raise ValueError(
                    f"{file}: the name {model.name!r} is taken by a model of {origin[model.name]}; choose another"
                )
            known[model.name], origin[model.name] = model, str(file)
    return known


def _shipped() -> Iterator[Model]:
    for config in SHIPPED.glob("*/config.json"):
        folder = config.parent
        yield Model(folder.name, str(folder), None, _first_line(folder / "README.md"))


def _first_line(readme: Path) -> str:
    """The first sentence of a README below its title."""
    if not readme.is_file():
        return ""
    lines = readme.read_text(encoding="utf-8").splitlines()
    return next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")


def _list_files() -> list[Path]:
    return [Path(part).expanduser() for part in os.environ.get(LISTS, "").split(os.pathsep) if part]


def _listed(file: Path) -> Iterator[Model]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{LISTS} names the list of models {str(file)!r}, which is not there") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a list of models: it is not text in UTF-8") from None
    try:
        content = plain_yaml.load(text)
    except ValueError as error:
        raise ValueError(f"{file} is not a list of models: {error}") from None
    if content is None:
        return
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a list of models: it holds a {type(content).__name__}, not names with a place")
    for name, entry in content.items():
        yield _model(file, name, entry)


def _model(file: Path, name: Any, entry: Any) -> Model:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{file}: the name of a model is letters, digits and ._- , got {name!r}")
    here = f"{file}: model {name!r}"
    if not isinstance(entry, dict):
        raise ValueError(f"{here} needs a place, as in {name}: {{place: ...}}, got {entry!r}")
    for key, value in entry.items():
        if key not in KEYS:
            raise ValueError(f"{here} has the key {key!r}; allowed are {', '.join(KEYS)}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{here}: {key} is text, in quotes if it looks like a number, got {value!r}")
    if "place" not in entry:
        raise ValueError(f"{here} has no place: a folder, or a repository of the Hub as organisation/name")
    place, revision = entry["place"].removeprefix("hf://"), entry.get("revision")
    description = " ".join(entry.get("description", "").split())
    if revision is None:
        return Model(name, _folder(file, here, entry["place"]), None, description)
    if not HUB_ID.fullmatch(place):
        raise ValueError(f"{here} has a revision, which only a repository organisation/name has, got place {place!r}")
    if revision.lower() in MOVING:
        raise ValueError(f"{here}: the revision {revision!r} moves with every upload; give a tag or a commit")
    return Model(name, place, revision, description)


def _folder(file: Path, here: str, place: str) -> str:
    """The folder a place means; one that looks like a repository has to be there."""
    folder = file.parent / Path(place).expanduser()
    if place.startswith("hf://") or (HUB_ID.fullmatch(place) and not folder.is_dir()):
        raise ValueError(
            f"{here}: the repository {place!r} needs a revision, a tag or a commit, to always mean the same"
        )
    return str(folder.resolve())
