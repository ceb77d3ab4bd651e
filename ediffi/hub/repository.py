"""Places of the Hub as people type them: `ORG/REPO`, `ORG/REPO@REVISION`, `hf://ORG/REPO`."""

import re
from dataclasses import dataclass

from ediffi.registry.core import HUB_ID

SCHEME = "hf://"
REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
"""A branch, a tag or a commit; of a commit, all of its forty digits."""


@dataclass(frozen=True)
class Place:
    """A model on the Hub.

    Attributes:
        repository: "organisation/name".
        revision: branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def place_of(text: str, revision: str | None = None) -> Place | None:
    """The place that a text names, or None if it cannot be one.

    Args:
        text: as typed.
        revision: said apart from it.

    Raises:
        ValueError: it begins with `hf://` and is none, the revision cannot be one, or two are given that differ.
    """
    repository, at, typed = text.removeprefix(SCHEME).partition("@")
    if not HUB_ID.fullmatch(repository):
        if text.startswith(SCHEME):
            raise ValueError(
                f"{text!r} names no repository of the Hub; hf://ORG/REPO or hf://ORG/REPO@REVISION is meant"
            )
        return None
    if typed and revision and typed != revision:
        raise ValueError(f"{text!r} names the revision {typed!r}, and {revision!r} is asked for as well; give one")
    chosen = typed if at else revision
    if chosen is not None and (not REVISION.fullmatch(chosen) or ".." in chosen):
        raise ValueError(f"revision {chosen!r} cannot be one; a branch, a tag or a whole commit of 40 digits is meant")
    return Place(repository, chosen)


def check_repository(repository: str) -> None:
    """Make sure that a name can be a repository's.

    Raises:
        ValueError: it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # meant for others, not re-exported

    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if not HUB_ID.fullmatch(repository):
        raise ValueError(f"{repository!r} cannot be a repository of the Hub; ORG/REPO is meant")
