"""Upload to the Hub: one atomic commit, so that a repository never holds a part of a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ediffi
from ediffi.hub.card import LIBRARY
from ediffi.hub.errors import plain_errors
from ediffi.hub.finding import CONFIG

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

NEUTRAL = (".gitattributes", "README.md", "LICENSE", ".gitignore")
"""Files that a repository without a model may have."""

Content = Mapping[str, Path | bytes]
"""Files, or their content, by their path in the repository."""


def upload(content: Content, repository: str, private: bool = False, revision: str | None = None) -> str:
    """Publish a model in one commit, which also deletes the files of an earlier model that this one does not have.

    Files that the Hub has already, by their hash, are not sent again: the same call completes an interrupted upload.

    Args:
        content: the files of the model, `config.json` among them.
        repository: "organisation/name"; created if it does not exist.
        private: visible only to its owners, if it is created.
        revision: branch to publish on, created if it does not exist; the main branch by default.

    Returns:
        The address of the commit.

    Raises:
        PermissionError: the token is missing or invalid, or has no permission to write there.
        ValueError: the repository holds something else, or is public and `private` is set.
        OSError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise PermissionError("Not logged in to the Hub: run `hf auth login` or set HF_TOKEN")
    api = HfApi(library_name=LIBRARY, library_version=ediffi.__version__)
    with plain_errors(repository):
        api.create_repo(repository, private=True if private else None, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        info = api.model_info(repository, revision=revision)
        if private and info.private is False:
            raise ValueError(f"{repository} is public: make it private on its page, or publish without --private")
        added = [CommitOperationAdd(name, file) for name, file in content.items()]
        deleted = [CommitOperationDelete(name) for name in sorted(_earlier_files(info) - set(content))]
        commit = api.create_commit(
            repository,
            [*added, *deleted],
            commit_message="Publish the model",
            revision=revision,
            parent_commit=info.sha,  # refused if somebody else has committed meanwhile
        )
    return str(commit.commit_url)


def _earlier_files(info: "ModelInfo") -> set[str]:
    """The weights and encoders' files of the model that a repository holds.

    Raises:
        ValueError: the repository holds something else.
    """
    there = {sibling.rfilename for sibling in info.siblings or []}
    config = _read_config(info) if CONFIG in there else {}
    ours = info.card_data is not None and info.card_data.library_name == LIBRARY
    foreign = sorted(there.difference(NEUTRAL))
    if foreign and not ours and not str(config.get("format")).startswith(f"{LIBRARY}-"):
        raise ValueError(
            f"{info.id} holds files that are not of a model of ediffi ({', '.join(foreign[:3])}): choose another "
            "repository, or another branch with --revision"
        )
    try:
        weights = {row["file"] for entry in config["stages"] for row in entry["experts"]}
        return {str(name) for name in weights | set(config.get("files", {}))} & there
    except (KeyError, TypeError, AttributeError):  # a broken config lists nothing
        return set()


def _read_config(info: "ModelInfo") -> Mapping[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        config = json.loads(Path(hf_hub_download(info.id, CONFIG, revision=info.sha)).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}
