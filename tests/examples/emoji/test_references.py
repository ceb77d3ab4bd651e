"""Scenes with the image embedding of another scene in their style."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from emojiworld import shards, world
from emojiworld.judge import train_judge
from emojiworld.references import write_references

from ediffi.cli import main
from ediffi.data.index import INDEX, Index, write_index
from ediffi.data.shards import Sample, decode, load_shard, write_tar


@pytest.fixture(scope="module")
def embedded(sprites: Path, new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("embedded")
    shards.write_scenes(world.open_world(sprites), folder / "scenes", 32, 40, "test")
    out = ["--out", str(folder / "data"), "--encoders", "toybox", "--allow-unknown"]
    assert main(["embed", "--shards", str(folder / "scenes"), *out]) == 0
    return folder / "data"


def samples(folder: Path) -> list[Sample]:
    return [decode(raw) for shard in Index.read(folder).shards for raw in load_shard(shard)]


def things(sample: Sample) -> set[str]:
    return {thing["hexcode"] for thing in sample.metadata["things"]}


def test_each_image_embedding_is_that_of_another_scene_in_its_style(embedded: Path, tmp_path: Path) -> None:
    write_references(embedded, tmp_path / "references")
    before, after = samples(embedded), samples(tmp_path / "references")
    changed = 0
    for old, new in zip(before, after, strict=True):
        assert (new.key, new.caption, new.metadata) == (old.key, old.caption, old.metadata)
        assert new.image.tobytes() == old.image.tobytes()
        assert all(torch.equal(new.embeddings[name], old.embeddings[name]) for name in old.embeddings if "text" in name)
        (origin,) = {other.key: other for other in before if same_image(other, new)}.values()
        assert origin.metadata["style"] == old.metadata["style"]
        changed += origin.key != old.key
        assert origin.key == old.key or not things(origin) & things(old)
    assert changed > 30, "few scenes share something with all others in their style"


def same_image(one: Sample, other: Sample) -> bool:
    names = [name for name in one.embeddings if name.startswith("clip_image")]
    assert names
    return all(torch.equal(one.embeddings[name], other.embeddings[name]) for name in names)


def test_shards_that_are_no_scenes_are_refused(embedded: Path, tmp_path: Path) -> None:
    """Nor by the judge."""
    plain = [
        {**sample, "json": b'{"key": "one"}'} for shard in Index.read(embedded).shards for sample in load_shard(shard)
    ]
    folder = tmp_path / "plain"
    folder.mkdir()
    description = json.loads((embedded / INDEX).read_text())
    write_index(folder / INDEX, [{"file": "00000.tar", **write_tar(folder / "00000.tar", plain)}], description)
    with pytest.raises(ValueError, match=r"00000\.tar has no scenes of `emojiworld scenes`: a sample has no 'things'"):
        write_references(folder, tmp_path / "references")
    for wrong, message in (folder, "unknown or missing: 'things'"), (embedded.parent / "scenes", "must match"):
        with pytest.raises(ValueError, match=rf"{message}.*it needs scenes of --size 64"):
            train_judge(tmp_path / "judge", wrong, wrong)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train_judge(tmp_path / "judge", folder, folder, epochs=0)


def test_shards_without_image_embeddings_are_refused(embedded: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="no embeddings of clip_image"):
        write_references(embedded.parent / "scenes", tmp_path / "references")
    with pytest.raises(FileExistsError, match="are complete"):
        write_references(embedded, embedded)
