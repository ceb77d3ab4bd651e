"""Models by name: those that ship with the package, and those of a team's own lists.

A list is a YAML file; the environment variable `EDIFFI_MODELS` names one or several, joined as in `PATH`:

    birds:
      place: our-lab/birds            # a repository of the Hub, or a folder, relative to this file
      revision: 4f2a91c0d3e5...       # of a repository: a tag or a commit, so that the name always means the same model
      description: finches and wrens, 256 pixels

Nothing here loads a model or imports torch.
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
"""Revisions that change with every upload."""
KEYS = ("place", "revision", "description")


@dataclass(frozen=True)
class NamedModel:
    """A model by its name: of the Hub if there is a revision (a tag or a commit), otherwise in an absolute folder."""

    name: str
    place: str
    revision: str | None
    description: str


def find(name: str) -> NamedModel | None:
    """The model called `name`, or None; of a broken list, a ValueError names the file and the entry."""
    return _known().get(name)


def shipped_path(path: Path) -> Path:
    """A path as recipes of a checkout have it, "ediffi/weights/...": that of the package, where the working folder has
    none."""
    inside = path.parts[:2] == ("ediffi", "weights") and not path.exists()
    return SHIPPED.joinpath(*path.parts[2:]) if inside else path


def names(pattern: str = "*") -> list[str]:
    """Names of the models that match the shell pattern, sorted; raises as `find`."""
    return sorted(name for name in _known() if fnmatchcase(name, pattern))


def _known() -> dict[str, NamedModel]:
    known = {model.name: model for model in _shipped()}
    origin = dict.fromkeys(known, "this package")
    for file in [Path(part).expanduser() for part in os.environ.get(LISTS, "").split(os.pathsep) if part]:
        for model in _listed(file):
            if model.name in known:
                raise ValueError(f"{file}: the name {model.name!r} is taken by a model of {origin[model.name]}")
            known[model.name], origin[model.name] = model, str(file)
    return known


def _shipped() -> Iterator[NamedModel]:
    for config in SHIPPED.glob("*/config.json"):
        readme = config.with_name("README.md")
        lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
        first = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")
        yield NamedModel(config.parent.name, str(config.parent), None, first)


def _listed(file: Path) -> Iterator[NamedModel]:
    try:
        content = plain_yaml.load(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict | None):
            raise ValueError(f"it holds a {type(content).__name__}, not names with a place")
    except FileNotFoundError:
        raise FileNotFoundError(f"{LISTS} names the list of models {str(file)!r}, which does not exist") from None
    except ValueError as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{file} is not a list of models: {reason}") from None
    for name, entry in (content or {}).items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{file}: the name of a model must be letters, digits and ._- , got {name!r}")
        try:
            yield _model(file.parent, name, entry)
        except ValueError as error:
            raise ValueError(f"{file}: model {name!r}: {error}") from None


def _model(folder: Path, name: str, entry: Any) -> NamedModel:
    """The model of an entry of a list that lies in `folder`."""
    if not isinstance(entry, dict) or "place" not in entry:
        raise ValueError(f"it needs a place, as in {name}: {{place: ORG/REPO or a folder}}, got {entry!r}")
    for key, value in entry.items():
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}; allowed are {', '.join(KEYS)}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{key} must be text, in quotes if it looks like a number, got {value!r}")
    place, revision = entry["place"].removeprefix("hf://"), entry.get("revision")
    description = " ".join(entry.get("description", "").split())
    here = folder / Path(entry["place"]).expanduser()
    if revision is None:
        if entry["place"] != place or (HUB_ID.fullmatch(place) and not here.is_dir()):
            raise ValueError(f"the repository {place!r} needs a revision, a tag or a commit")
        return NamedModel(name, str(here.resolve()), None, description)
    if not HUB_ID.fullmatch(place):
        raise ValueError(f"only a repository ORG/REPO has a revision, got place {place!r}")
    if revision.lower() in MOVING:
        raise ValueError(f"the revision {revision!r} changes with every upload; give a tag or a commit")
    return NamedModel(name, place, revision, description)
