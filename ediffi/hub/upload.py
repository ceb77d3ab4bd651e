"""Onto the Hub: everything but `config.json` in one commit, then that in another, so that no half of a model loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ediffi
from ediffi.hub.card import LIBRARY
from ediffi.hub.errors import plainly

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONFIG = "config.json"
ANYBODYS = (".gitattributes", "README.md", "LICENSE", ".gitignore")
"""Files of a repository in which there may be nothing yet."""

Content = Mapping[str, Path | bytes]
"""Files, or what is in them, by their path in the repository."""


def upload(content: Content, repository: str, private: bool = False, revision: str | None = None) -> str:
    """Send a publication; what the Hub has already, by its hash, is not sent again.

    Cut at any moment, the same call completes it: before the last commit the repository holds no `config.json` of this
    model, and does not load.

    Args:
        content: what to publish, `config.json` in it.
        repository: "organisation/name"; made if it does not exist.
        private: only for its owners, if it is new.
        revision: branch to publish on, made if it does not exist; the main branch by default.

    Returns:
        The address of the last commit.

    Raises:
        PermissionError: there is no token, it is wrong, or may not write there.
        ValueError: the repository holds something else, or is public where a private one is asked for.
        OSError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise PermissionError("the Hub wants to know who publishes: log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi(library_name=LIBRARY, library_version=ediffi.__version__)
    with plainly(repository):
        api.create_repo(repository, private=True if private else None, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        stale = _stale(api, content, repository, private, revision)
        first = api.create_commit(
            repository,
            [CommitOperationAdd(name, file) for name, file in content.items() if name != CONFIG],
            commit_message="Weights, card and results",
            revision=revision,
        )
        last = api.create_commit(
            repository,
            [CommitOperationAdd(CONFIG, content[CONFIG]), *(CommitOperationDelete(name) for name in stale)],
            commit_message="config.json: the model is complete",
            revision=revision,
            parent_commit=first.oid,
        )
    return str(last.commit_url)


def _stale(api: "HfApi", content: Content, repository: str, private: bool, revision: str | None) -> list[str]:
    """Files of the model that is there now, which the new one does not have any more.

    Raises:
        ValueError: what is there is not ours, or not private.
    """
    info = api.model_info(repository, revision=revision)
    if private and info.private is False:
        raise ValueError(
            f"{repository} exists and is public; make it private on its page, or publish without --private"
        )
    there = {sibling.rfilename for sibling in info.siblings or []}
    config = _config(repository, info.sha) if CONFIG in there else {}
    carded = info.card_data is not None and info.card_data.library_name == LIBRARY
    foreign = sorted(there.difference(ANYBODYS))
    if foreign and not carded and not str(config.get("format")).startswith(f"{LIBRARY}-"):
        raise ValueError(
            f"{repository} holds something that is not of ediffi ({', '.join(foreign[:3])}); choose another name, or "
            "another branch by --revision"
        )
    return sorted(_listed(config) & there - set(content))


def _config(repository: str, commit: str | None) -> Mapping[str, Any]:
    """What `config.json` of a commit holds; nothing if it is no object."""
    from huggingface_hub import hf_hub_download

    try:
        config = json.loads(Path(hf_hub_download(repository, CONFIG, revision=commit)).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _listed(config: Mapping[str, Any]) -> set[str]:
    """The weights and encoders' files of a config, whatever it is like."""
    try:
        rows = {row["file"] for entry in config["stages"] for row in entry["experts"]}
        return {str(name) for name in rows | set(config.get("files", {}))}
    except (KeyError, TypeError, AttributeError):
        return set()
