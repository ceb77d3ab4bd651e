"""Embedded scenes whose CLIP image embedding is that of another scene by the same artist: a reference for the style."""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch

from ediffi.data.index import INDEX, Index, Shard, write_index
from ediffi.data.shards import load_shard, metadata_of, write_tar
from ediffi.data.tar import RawSample
from emojiworld.shards import begin_shards, in_processes

SOURCE = "clip_image."


def write_references(embedded: Path, output: Path, workers: int = 1) -> Path:
    """Exchange the image embeddings of shards, in each shard and style; returns the path of the new index.

    The embedding of a scene's own picture tells what is in it as well as how it is drawn. A network that has learned
    from those would paint the reference's things, too. Of a scene with other things, only the style is of use.

    Args:
        embedded: shards of `emojiworld scenes`, embedded with a `clip_image`.
        output: the folder to write to.
        workers: processes.

    Raises:
        FileExistsError: `output` has an index already.
        ValueError: the shards have no `clip_image` embeddings, or are not scenes.
    """
    found = list(enumerate(Index.read(str(embedded)).shards))
    description = json.loads((embedded / INDEX).read_text(encoding="utf-8"))
    if "clip_image" not in description.get("encoders", {}):
        raise ValueError(f"{embedded} has no embeddings of clip_image; embed it first (ediffi embed)")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    begin_shards(output, len(found))
    shards = in_processes(partial(_write_shard, output), found, workers, "references")
    return write_index(output / INDEX, shards, {**description, "reference": "style"})


def _write_shard(output: Path, shard: tuple[int, Shard]) -> dict[str, Any]:
    number, read = shard
    name = f"{number:05d}.tar"
    try:
        return {"file": name, **write_tar(output / name, exchanged(load_shard(read)))}
    except KeyError as error:
        raise ValueError(f"{read.url} has no scenes of `emojiworld scenes`: a sample has no {error}") from None


def exchanged(samples: list[RawSample]) -> list[RawSample]:
    """The samples in order, each with the image embedding of the next of its style that shares nothing with it."""
    facts = [metadata_of(sample) for sample in samples]
    things = [{thing["hexcode"] for thing in fact["things"]} for fact in facts]
    by_style = defaultdict(list)
    for row, fact in enumerate(facts):
        by_style[fact["style"]].append(row)
    tensors = [safetensors.torch.load(sample["safetensors"]) for sample in samples]
    changed = []
    for row, sample in enumerate(samples):
        rows = by_style[facts[row]["style"]]
        after = rows.index(row) + 1
        other = next((next_ for next_ in rows[after:] + rows[:after] if not things[next_] & things[row]), row)
        image = {name: tensor for name, tensor in tensors[other].items() if name.startswith(SOURCE)}
        changed.append({**sample, "safetensors": safetensors.torch.save({**tensors[row], **image})})
    return changed
