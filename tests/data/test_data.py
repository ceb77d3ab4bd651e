"""Shards in and out, and pictures as tensors."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from ediffi.data.index import Index, Shard, write_index
from ediffi.data.module import ShardData
from ediffi.data.shards import decode, embeddings_of, load_shard, read_shard
from ediffi.evaluation.datasets.toybox import held_out, render
from ediffi.evaluation.datasets.toybox.scene import Object, Scene
from ediffi.hub.models import SHIPPED
from ediffi.io.files import sha256
from ediffi.io.images import to_images, to_tensor
from ediffi.registry import encoders
from ediffi.toybox.shards import write_toybox

ENCODERS = SHIPPED / "toybox" / "encoders"


def scene_of(metadata: dict) -> Scene:
    objects = tuple(Object(**thing) for thing in metadata.pop("objects"))
    offsets = tuple(tuple(offset) for offset in metadata.pop("offsets"))
    return Scene(objects=objects, offsets=offsets, **metadata)


def test_a_sample_comes_back_as_it_was_written(shards: list[Shard]) -> None:
    sample = decode(next(iter(read_shard(shards[0].path))))
    scene = scene_of(dict(sample.metadata))
    assert not held_out(scene)
    assert np.array_equal(np.array(sample.image), render(scene, 32))
    alone = encoders.create("t5", path=str(ENCODERS / "t5"))([sample.caption])
    stored = sample.embeddings["t5.tokens"]
    assert stored.dtype == torch.bfloat16
    torch.testing.assert_close(stored.float(), alone.tokens[0], atol=0.05, rtol=0.05)


def test_the_index_counts_and_hashes(shards: list[Shard]) -> None:
    assert [shard.samples for shard in shards] == [16, 16, 16]
    assert all(sha256(shard.path) == shard.sha256 for shard in shards)


def test_pictures_are_averaged_down_and_come_back() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    whole = to_tensor(image, 32)
    averaged = torch.nn.functional.avg_pool2d(whole[None], 4)[0]
    torch.testing.assert_close(to_tensor(image, 8), averaged, atol=2.01 / 255, rtol=0)
    assert np.array_equal(np.array(to_images(whole[None])[0]), np.array(image))


def test_small_pictures_are_named() -> None:
    with pytest.raises(ValueError, match="20x30 is smaller than image_size, 32"):
        to_tensor(Image.new("RGB", (20, 30)), 32)


def test_unknown_members_are_not_decoded(tmp_path: Path, shards: list[Shard]) -> None:
    """A pickle in a shard stays bytes; a sample that lacks a part is left out."""
    canary = tmp_path / "canary"
    evil = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    with tarfile.open(tmp_path / "evil.tar", "w") as tar, tarfile.open(shards[0].path) as good:
        for member in good.getmembers()[:4]:
            tar.addfile(member, good.extractfile(member))
        stem = good.getmembers()[0].name.partition(".")[0]
        for name in (f"{stem}.pkl", f"{stem}.pyd", "half.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(evil)
            tar.addfile(info, io.BytesIO(evil))
    samples = [decode(raw) for raw in read_shard(tmp_path / "evil.tar")]
    assert len(samples) == 1
    assert not canary.exists()


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        Index.read(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="not an index"):
        Index.read(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"shards": [{"file": "a.tar", "samples": 1, "sha256": ""}]}))
    with pytest.raises(FileNotFoundError, match=r"a\.tar"):
        Index.read(tmp_path)


def test_an_index_is_what_was_written(shard_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shard_folder, tmp_path / "shards"))
    index = json.loads((folder / "index.json").read_text())
    written = Index.read(folder)
    assert "sha256" not in written.content
    (folder / "index.json").write_text(json.dumps(index, indent=3, sort_keys=True))
    assert Index.read(folder) == written

    def read(content: dict[str, Any]) -> Index:
        (folder / "index.json").write_text(json.dumps(content))
        return Index.read(folder)

    for less in ({**index, "shards": index["shards"][1:]}, {**index, "encoders": {}}):
        with pytest.raises(ValueError, match="its content is not that of its sha256: remove it and write it again"):
            read(less)
    old = {key: value for key, value in index.items() if key != "sha256"}
    assert read(old) == written
    with pytest.raises(ValueError, match=rf"{index['shards'][0]['file']} is in .*, and index.json does not list it"):
        read({**old, "shards": old["shards"][1:]})
    shutil.copy(folder / index["shards"][0]["file"], folder / "99999.tar")
    with pytest.raises(ValueError, match=r"99999.tar is in .*, and index.json does not list it"):
        read(index)
    (folder / "99999.tar").unlink()
    first, *others = old["shards"]
    (_, count), *sides = first["sides"].items()
    with pytest.raises(ValueError, match=f"its sides are those of {first['samples'] - count} samples, and it has"):
        read({**old, "shards": [{**first, "sides": dict(sides)}, *others]})


def test_a_checkpoint_records_the_shards_that_are_read(shard_folder: Path, tmp_path: Path) -> None:
    """Not those that the folder has by then, which a resumed run would take for its own."""
    folder = Path(shutil.copytree(shard_folder, tmp_path / "shards"))
    data = ShardData(folder, shard_folder, 16, batch_size=4)
    data.setup("fit")
    before = data.state_dict()["shards"]
    index = json.loads((folder / "index.json").read_text())
    shutil.copy(folder / index["shards"][0]["file"], folder / "99999.tar")
    write_index(folder / "index.json", [*index["shards"], {**index["shards"][0], "file": "99999.tar"}], index)
    assert data.state_dict()["shards"] == before
    again = ShardData(folder, shard_folder, 16, batch_size=4)
    again.setup("fit")
    with pytest.raises(ValueError, match="are not those that this run was trained on"):
        again.load_state_dict(data.state_dict())


@pytest.mark.parametrize("name", ["t5.tokens", "other.tokens"])
def test_embeddings_without_tokens_are_refused_with_their_key(name: str) -> None:
    raw = {"__key__": "k", "safetensors": safetensors.torch.save({name: torch.ones(0, 4)})}
    with pytest.raises(ValueError, match=rf"the embeddings {name} of sample 'k' are empty"):
        embeddings_of(raw)


def test_finished_shards_are_not_written_over(shard_folder: Path) -> None:
    with pytest.raises(FileExistsError, match="complete"):
        write_toybox(shard_folder, ENCODERS, image_size=32, count=1)


def test_a_truncated_shard_is_named(tmp_path: Path, shard_folder: Path) -> None:
    for path in shard_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with tarfile.open(tmp_path / "00001.tar") as tar:
        middle = tar.getmembers()[30].offset
    data = (tmp_path / "00001.tar").read_bytes()
    (tmp_path / "00001.tar").write_bytes(data[:middle])
    with pytest.raises(ValueError, match=r"00001.tar has \d+ complete samples, its index says 16"):
        [load_shard(shard) for shard in Index.read(tmp_path).shards]
