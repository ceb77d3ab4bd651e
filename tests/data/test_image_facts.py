"""Transparent images, and images that are too small: told by the index, before a run meets them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi.cli import main
from ediffi.data.filtering.filters import FilterRun, Keep
from ediffi.data.filtering.scorer import ScoreSettings
from ediffi.data.image_facts import ImageFacts
from ediffi.data.index import INDEX, Index, write_index
from ediffi.data.module import ShardData
from ediffi.data.shards import Sample, decode, read_shard, write_shards, write_tar
from ediffi.data.stream import ImageTransform, ShardStream
from ediffi.data.survey import survey
from ediffi.io.distributed import DistributedContext
from tests.data import img2dataset

EMBEDDINGS = {"t5.tokens": torch.zeros(2, 8, dtype=torch.bfloat16)}


def clear(hidden: int, side: int = 16) -> Image.Image:
    """A red square on transparency, under which another gray is hidden."""
    image = Image.new("RGBA", (side, side), (hidden, hidden, hidden, 0))
    image.paste((255, 0, 0, 255), (side // 4, side // 4, side // 2, side // 2))
    return image


def written(folder: Path, images: list[Image.Image], per_shard: int = 4) -> Path:
    samples = (Sample(f"k{row}", image, f"picture {row}", EMBEDDINGS, {}) for row, image in enumerate(images))
    write_shards(folder, samples, per_shard, {"encoders": {"t5": {"name": "t5", "width": 8}}})
    return folder


def forget(folder: Path) -> None:
    """Make the index one of an earlier version."""
    content = json.loads((folder / INDEX).read_text())
    for entry in content["shards"]:
        for name in ("sides", "smallest", "transparent"):
            del entry[name]
    write_index(folder / INDEX, content.pop("shards"), content)


def first(folder: Path, **options: Any) -> Any:
    return next(iter(ShardData(folder, folder, 16, batch_size=2, **options).train_dataloader()))


def test_what_is_hidden_under_transparency_is_not_trained_on(tmp_path: Path) -> None:
    black, white = (written(tmp_path / name, [clear(gray)] * 2) for name, gray in (("0", 0), ("255", 255)))
    assert torch.equal(first(black).images, first(white).images)
    assert first(black).images[0, :, 0, 0].tolist() == [1, 1, 1]
    assert first(black, background="#0000ff").images[0, :, 0, 0].tolist() == [-1, -1, 1]


def test_the_index_counts_sides_and_transparent_images(tmp_path: Path) -> None:
    images = [Image.new("RGB", (20, 30)), clear(0, 64), Image.new("RGBA", (64, 64), (1, 2, 3, 255)), clear(9, 24)]
    (shard,) = Index.read(written(tmp_path, images)).shards
    assert (shard.sides, shard.smallest, shard.transparent) == ({20: 1, 24: 1, 64: 2}, "k0", 2)
    assert [shard.samples_from(side) for side in (1, 21, 64, 65)] == [4, 3, 2, 0]


def test_facts_of_several_shards_add_up() -> None:
    one, two = ImageFacts(), ImageFacts()
    for facts, key, side in ((one, "a", 9), (two, "b", 7), (two, "c", 7)):
        data = io.BytesIO()
        Image.new("L", (side, 10)).save(data, "png")
        facts.add({"__key__": key, "png": data.getvalue()})
    two.add({"__key__": "d", "jpg": b"no image"})
    one.update(two)
    assert (dict(one.sides), one.smallest) == ({9: 1, 7: 2, 0: 1}, "d")
    assert next(one.lines()).startswith("1 of 4 images cannot be read")


def test_a_small_image_is_named_before_the_run(tmp_path: Path) -> None:
    folder = written(tmp_path, [Image.new("RGB", (side, side)) for side in (32, 32, 32, 32, 16, 12, 15, 16)])
    found = (
        r"2 of 8 images have a shortest side below image_size \(16\), the smallest has 12: sample 'k5' of .*00001.tar"
    )
    for stage in ("fit", "validate"):
        with pytest.raises(ValueError, match=found + r"; .*leave small ones out \(data.skip_small\)"):
            ShardData(folder, folder, 16).setup(stage)
    ShardData(folder, folder, 12).setup("fit")


def test_small_images_are_left_out_where_that_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sides = [32, 12, 32, 8, 16, 12, 15, 16]
    folder = written(tmp_path, [Image.new("RGB", (side, side)) for side in sides])
    data = ShardData(folder, folder, 16, batch_size=4, skip_small=True)
    data.setup("fit")
    assert "4 of 8 images have a shortest side below image_size (16)" in caplog.text
    batches = iter(data.train_dataloader())
    for _ in range(3):
        assert sorted(next(batches).keys) == ["k0", "k2", "k4", "k7"]
    with pytest.raises(ValueError, match="skip_small is for resize: center_crop"):
        ShardData(folder, folder, 16, skip_small=True, resize="pad")
    with pytest.raises(ValueError, match="8 of 8 images"):
        ShardData(folder, folder, 64, skip_small=True).setup("fit")


def test_an_image_that_cannot_be_read_is_named_before_the_run(tmp_path: Path) -> None:
    folder = written(tmp_path, [Image.new("RGB", (16, 16))] * 3)
    rows = list(read_shard(folder / "00000.tar"))
    rows[1]["png"] = b"no image"
    shard = {"file": "00000.tar", **write_tar(folder / "00000.tar", rows)}
    write_index(folder / INDEX, [shard], {})
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be read, one is that of sample 'k1' of .*00000\.tar"):
        ShardData(folder, folder, 16).setup("fit")


def test_a_small_image_that_an_old_index_does_not_know_is_named_when_it_comes(tmp_path: Path) -> None:
    folder = written(tmp_path, [Image.new("RGB", (12, 12))] * 4)
    forget(folder)
    data = ShardData(folder, folder, 16, batch_size=4)
    data.setup("fit")
    with pytest.raises(
        ValueError, match=r"sample 'k\d' of .*00000\.tar .*: an image of 12x12 is smaller than image_size, 16"
    ):
        next(iter(data.train_dataloader()))
    with pytest.raises(ValueError, match=r"skip_small needs image sizes, .* complete it \(ediffi data index\)"):
        ShardData(folder, folder, 16, skip_small=True).setup("fit")


def test_an_old_index_is_completed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, [clear(0), *[Image.new("RGB", (20, 20))] * 5])
    wanted = (folder / INDEX).read_bytes()
    forget(folder)
    assert main(["data", "index", str(folder)]) == 0
    assert "shortest sides: 16 to 20 pixels; 16 is that of sample 'k0'" in capsys.readouterr().out
    assert json.loads((folder / INDEX).read_bytes()) == json.loads(wanted)
    assert main(["data", "index", str(folder)]) == 1
    forget(folder)
    data = bytearray((folder / "00001.tar").read_bytes())
    data[data.index(b"picture 4")] ^= 1
    (folder / "00001.tar").write_bytes(data)
    assert main(["data", "index", str(folder)]) == 1
    assert "has another sha256 than its index says" in capsys.readouterr().err


def test_verify_and_stats_tell_of_transparency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, [clear(0), Image.new("RGB", (20, 20)), clear(9)])
    assert main(["data", "verify", str(folder)]) == 0
    assert "2 of 3 images are transparent: they are laid on a background" in capsys.readouterr().out
    found = survey([str(folder / "00000.tar")])
    assert found.content()["transparent"] == 2
    assert any(line.startswith("transparent images: 2;") for line in found.lines())


def test_embeddings_on_another_background_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, [clear(0)] * 2)
    content = json.loads((folder / INDEX).read_text())
    write_index(folder / INDEX, content.pop("shards"), content | {"background": "black"})
    ShardData(folder, folder, 16, background="black").setup("fit")
    with pytest.raises(ValueError, match=r"were embedded on the background 'black', and data.background is 'white'"):
        ShardData(folder, folder, 16).setup("fit")


def test_a_filter_sees_images_on_the_background(tmp_path: Path) -> None:
    """By their hashes: hidden colours make no difference, another background does."""
    pytest.importorskip("imagehash")
    ramp = np.arange(0, 256, 4, dtype=np.uint8)
    gray = np.broadcast_to(ramp, (64, 64))
    hidden = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    alpha = np.where(np.arange(64)[:, None] < 32, 0, 255).astype(np.uint8) * np.ones((1, 64), np.uint8)
    rows = []
    for row, under in enumerate((gray, np.where(alpha, gray, hidden).astype(np.uint8))):
        data = io.BytesIO()
        Image.merge("LA", (Image.fromarray(under), Image.fromarray(alpha))).save(data, "png")
        rows.append({"__key__": f"k{row}", "png": data.getvalue(), "txt": b"a ramp", "json": b"{}"})
    img2dataset.write_rows(tmp_path / "in.tar", rows)
    settings = ScoreSettings(hash="perceptual")
    run = FilterRun([str(tmp_path / "in.tar")], tmp_path / "out", tmp_path / "measures", settings, Keep())
    assert run.run(DistributedContext()).dropped == {"duplicate": 1}


def test_stream_and_decode_share_one_function(tmp_path: Path) -> None:
    folder = written(tmp_path, [clear(7)])
    (raw,) = read_shard(folder / "00000.tar")
    stream = ShardStream(Index.read(folder).shards, ImageTransform(16, background=(0, 255, 0)), 1, 0)
    image = np.array(decode(raw, (0, 255, 0)).image)
    assert torch.equal(next(iter(stream)).images[0], torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1)
