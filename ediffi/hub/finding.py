"""Where a model is: shipped, in a list of models, a folder, or on the Hub, from which only the wanted files come."""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ediffi.hub import models
from ediffi.hub.errors import plain_errors, unreachable
from ediffi.io.hub_client import download, guard
from ediffi.registry.core import HUB_ID

logger = logging.getLogger(__name__)

CONFIG = "config.json"
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")
SCHEME = "hf://"
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]*")
"""A branch, a tag, or a commit with all of its 40 digits."""


@dataclass(frozen=True)
class ModelAddress:
    """A model on the Hub: "organisation/name", and a branch, tag or commit; None is the main branch."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


class FoundModel(NamedTuple):
    """A model folder. One in the Hub's cache has an address; at first it may hold nothing but `config.json`."""

    folder: Path
    address: ModelAddress | None
    local_files_only: bool

    def fetch(self, wanted: Callable[[], Sequence[str]]) -> None:
        """Download what the folder lacks of the files that `wanted` returns, if the model is on the Hub; as `find`.

        They are paths in the repository, and patterns (`encoders/t5/*.json`), which may match nothing.
        """
        if self.address is None:
            return
        from huggingface_hub import constants

        names = wanted()
        offline = self.local_files_only or constants.HF_HUB_OFFLINE
        if not offline and (self._lacks(names) or any("*" in name for name in names)):
            with plain_errors(str(self.address)):
                commit = self.folder.name  # a branch may have moved on since its config was read
                download(self.address.repository, commit, names)
        if lacking := ", ".join(self._lacks(names)):
            nowhere = "its folder in the cache of the Hub, and nothing is downloaded offline"
            raise FileNotFoundError(
                f"{self.address} is incomplete: {lacking} is missing in {nowhere if offline else 'the repository'}"
            )

    def check_config(self) -> None:
        """Download `config.json` again if its bytes in the cache are no longer those of its name there, which is their
        hash; ValueError if nothing can be downloaded."""
        path = self.folder / CONFIG
        if self.address is not None and not _has_its_hash(path.resolve()) and not self.fetch_again(path):
            raise ValueError(f"{path} was damaged in the cache of the Hub, and nothing is downloaded offline")

    def fetch_again(self, damaged: Path) -> bool:
        """Download a file of this folder whose bytes are not those that are listed; False if that cannot be done.

        A file may be damaged on its way, or in the cache. There it would be found, and refused, for ever.
        """
        from huggingface_hub import constants, hf_hub_download

        if self.address is None or self.local_files_only or constants.HF_HUB_OFFLINE:
            return False
        name = damaged.relative_to(self.folder).as_posix()
        logger.warning("%s is damaged, and is downloaded again", damaged)
        guard()
        with plain_errors(str(self.address)):
            hf_hub_download(self.address.repository, name, revision=self.folder.name, force_download=True)
        return True

    def _lacks(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if "*" not in name and not (self.folder / name).is_file()]


def find(model: str | Path, revision: str | None = None, local_files_only: bool = False) -> FoundModel:
    """The folder of a model; of a model on the Hub, only its `config.json` is downloaded.

    Args:
        model: a name ("toybox", or one of a list), a folder, or an address on the Hub: "ORG/REPO", "ORG/REPO@REVISION"
            or "hf://ORG/REPO". A local folder ORG/REPO comes before the Hub, except with `hf://`.
        revision: branch, tag or commit on the Hub.
        local_files_only: read only the Hub's cache.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the model is a pickle, a revision is given for a folder, or a list of models is broken.
        OSError: the Hub cannot be reached, or refuses.
    """
    text = str(model)
    if (named := models.find(text)) is not None:
        text, revision = named.place, revision or named.revision
    folder = Path(text)
    if folder.suffix in PICKLES and not folder.is_dir():
        raise ValueError(
            f"{text} is a pickle, which can run code when it is read, so it is not loaded as a model; "
            f"`ediffi convert {text} {folder.stem}.safetensors` reads its tensors and runs nothing"
        )
    address = None if isinstance(model, Path) or folder.is_dir() else parse_address(text, revision)
    if address is not None:
        try:
            found = FoundModel(snapshot(address, local_files_only), address, local_files_only)
            found.check_config()
            return found
        except OSError as error:
            on_hub = text.startswith(SCHEME) or named is not None
            raise type(error)(str(error) if on_hub else f"there is no folder {text!r}, and {error}") from None
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no model {text!r}: neither a folder, nor ORG/REPO on the Hub, nor one of {', '.join(models.names())}"
        )
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no {CONFIG}")
    if revision is not None:
        raise ValueError(f"{folder} is a folder and has no revision {revision!r}; hf://ORG/REPO is the one on the Hub")
    return FoundModel(folder, None, local_files_only)


def parse_address(text: str, revision: str | None = None) -> ModelAddress | None:
    """The address in a text; None if there is none, ValueError if it is impossible or its revision another one."""
    repository, at, own = text.removeprefix(SCHEME).partition("@")
    if not HUB_ID.fullmatch(repository):
        if text.startswith(SCHEME):
            raise ValueError(f"{text!r} names no repository; write hf://ORG/REPO or hf://ORG/REPO@REVISION")
        return None
    if own and revision and own != revision:
        raise ValueError(f"{text!r} has the revision {own!r}, but revision is {revision!r}; give one of them")
    chosen = own if at else revision
    if chosen is not None and not REVISION.fullmatch(chosen):
        raise ValueError(f"revision must be a branch, a tag or a commit with all of its 40 digits, got {chosen!r}")
    return ModelAddress(repository, chosen)


def snapshot(address: ModelAddress, local_files_only: bool = False) -> Path:
    """The folder in the Hub's cache of a repository at a revision, with its `config.json`; the OSErrors of `find`.

    A commit in the cache is not requested again. With HF_HUB_OFFLINE=1, with `local_files_only`, and where the Hub
    cannot be reached, the cache answers at once.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository, revision = address.repository, address.revision
    file = try_to_load_from_cache(repository, CONFIG, revision=revision)
    cached = Path(file).parent if isinstance(file, str) else None
    offline = local_files_only or constants.HF_HUB_OFFLINE
    if cached is not None and (offline or cached.name == revision):
        return cached
    if offline:
        reason = "local_files_only is set" if local_files_only else "HF_HUB_OFFLINE=1 is set"
        raise FileNotFoundError(f"{address} is not in the cache of the Hub, and {reason}")
    guard()
    with plain_errors(str(address)):
        try:  # before hf_hub_download, which retries for minutes if there is no network and nothing in the cache
            url = hf_hub_url(repository, CONFIG, revision=revision)
            HfApi().get_hf_file_metadata(url=url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except EntryNotFoundError:
            raise FileNotFoundError(f"{address} has no {CONFIG}, so it is no model of ediffi") from None
        except Exception as error:
            if cached is None or not unreachable(error):
                raise
            _warn(f"the Hub cannot be reached; {address} is read from the cache, commit {cached.name[:12]}")
            return cached
        return Path(hf_hub_download(repository, CONFIG, revision=revision)).parent


def _has_its_hash(blob: Path) -> bool:
    """Whether a file is named by the hash of its bytes, git's or SHA-256, or by something else."""
    content = blob.read_bytes()
    hashes = {64: hashlib.sha256(content), 40: hashlib.sha1(b"blob %d\0" % len(content) + content)}
    wanted = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name)
    return wanted is None or hashes[len(blob.name)].hexdigest() == blob.name


@cache
def _warn(message: str) -> None:
    logger.warning(message)  # once a process, although each part of a command may look for the model
