"""From the Hub into its cache: `config.json` first, then only the files that are asked for."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ediffi.hub.errors import plainly, unreachable
from ediffi.hub.repository import Place


def snapshot(place: Place, config: str, local_files_only: bool = False) -> Path:
    """The folder of the cache that holds a repository at a revision; of its files, `config` is there.

    With HF_HUB_OFFLINE=1, with `local_files_only` and without a network the cache answers at once. A commit that is
    there is not asked for again.

    Raises:
        FileNotFoundError: there is no such repository or revision, it has no such file, or the cache lacks it.
        OSError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    cached = try_to_load_from_cache(place.repository, config, revision=place.revision)
    here = Path(cached).parent if isinstance(cached, str) else None
    if here is not None and (local_files_only or here.name == place.revision):
        return here
    if local_files_only or constants.HF_HUB_OFFLINE:
        if here is None:
            reason = "only the cache is to be read" if local_files_only else "HF_HUB_OFFLINE=1 forbids the network"
            raise FileNotFoundError(f"{place} is not in the cache of the Hub, and {reason}")
        return here
    with plainly(str(place)):
        try:  # asked apart, since the client tries for minutes if there is no network and nothing in its cache
            HfApi().get_hf_file_metadata(
                url=hf_hub_url(place.repository, config, revision=place.revision),
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
        except EntryNotFoundError:
            raise FileNotFoundError(
                f"{place} has no {config}: it is no model of ediffi, or its upload is not complete yet"
            ) from None
        except Exception as error:
            if here is None or not unreachable(error):
                raise
            print(
                f"the Hub cannot be reached; {place} is read from the cache, commit {here.name[:12]}", file=sys.stderr
            )
            return here
        return Path(hf_hub_download(place.repository, config, revision=place.revision)).parent


def complete(place: Place, folder: Path, wanted: Sequence[str], local_files_only: bool = False) -> None:
    """See to it that a folder of the cache holds what is wanted.

    Args:
        place: the repository.
        folder: of the cache, as `snapshot` gives it.
        wanted: files by their path in the repository, and patterns (`encoders/t5/*.json`), of which some may match
            nothing.
        local_files_only: read the cache only.

    Raises:
        FileNotFoundError: a file is neither in the cache nor in the repository.
        OSError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import constants, snapshot_download

    missing = _missing(folder, wanted)
    if not missing and not any("*" in name for name in wanted):
        return
    if local_files_only or constants.HF_HUB_OFFLINE:
        if missing:
            raise FileNotFoundError(
                f"the cache of the Hub lacks {', '.join(missing)} of {place}, and nothing but the cache may be read"
            )
        return
    with plainly(str(place)):
        snapshot_download(place.repository, revision=folder.name, allow_patterns=list(wanted))
    if missing := _missing(folder, wanted):
        raise FileNotFoundError(
            f"{place} lacks {', '.join(missing)}, which its config.json names; its upload was cut short"
        )


def _missing(folder: Path, wanted: Sequence[str]) -> list[str]:
    return [name for name in wanted if "*" not in name and not (folder / name).is_file()]
