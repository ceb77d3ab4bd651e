"""What indexes beside shards tell of them."""

import json
from collections.abc import Sequence

from ediffi.data.index import FORMAT, INDEX, Index, Shard
from ediffi.io import urls


def known_shards(shards: Sequence[str]) -> dict[str, Shard]:
    """The shards that an index of ours in their folder tells something of, by place.

    Raises:
        ValueError: such an index is broken.
    """
    return {shard.place: shard for index in indexes(shards) for shard in index.shards}


def indexes(shards: Sequence[str]) -> list[Index]:
    """The indexes of ours in the folders of shards; raises as `known_shards`."""
    folders = dict.fromkeys(map(urls.parent, shards))
    return [Index.read(folder, complete=False) for folder in folders if _has_index(folder)]


def _has_index(folder: str) -> bool:
    """Whether an index of ours is in a folder; others write files of that name too."""
    place = urls.join(folder, INDEX)
    try:
        return bool(urls.exists(place) and json.loads(urls.read_bytes(place))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
