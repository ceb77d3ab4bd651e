"""Shards of other programs: paths and URLs, img2dataset's layout, indexes, and the commands that look at them."""

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from webdataset import tariterators

from ediffi import cli
from ediffi.data.index import Index, check_embeddings
from ediffi.data.shards import (
    Sample,
    caption_of,
    decode,
    embeddings_of,
    image_of,
    load_shard,
    metadata_of,
    read_shard,
    reject_for_embedding,
    write_shards,
    write_tar,
)
from ediffi.data.stream import ImageTransform, ShardStream
from ediffi.data.survey import mean, number, quantiles, survey
from ediffi.data.tar import Tally, read_samples
from ediffi.data.verify import check_shard
from ediffi.io import urls
from ediffi.io.files import sha256
from tests.data import img2dataset


@pytest.fixture(scope="module")
def foreign(new_folder: Callable[[str], Path]) -> Path:
    """Three shards of five samples in img2dataset's layout, without an index."""
    folder = new_folder("foreign")
    img2dataset.write(folder, 3, 5)
    return folder


@pytest.fixture(scope="module")
def own(new_folder: Callable[[str], Path]) -> Path:
    """Two shards of four samples with embeddings, and their index."""
    folder = new_folder("own")
    embedding = {"t5.tokens": torch.ones(2, 8, dtype=torch.bfloat16), "clip_text.tokens": torch.ones(1, 4)}
    image = Image.new("RGB", (16, 16), "red")
    samples = (Sample(f"{row}", image, "a red square", embedding, {"similarity": 0.25}) for row in range(8))
    encoders = {"t5": {"name": "t5", "sha256": "ab", "width": 8, "pooled_width": None}}
    write_shards(folder, samples, 4, {"encoders": encoders, "dtype": "bfloat16"})
    return folder


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of fsspec's file system in memory."""
    yield "memory://shards"
    fsspec.filesystem("memory").store.clear()


def upload(folder: Path, place: str) -> None:
    for path in folder.iterdir():
        with fsspec.open(f"{place}/{path.name}", "wb") as file:
            file.write(path.read_bytes())


def samples_of(place: str, tally: Tally | None = None) -> list[dict[str, Any]]:
    return list(read_samples(place, tally or Tally(), reject_for_embedding))


def theirs(path: Path) -> list[dict[str, Any]]:
    """The samples of a shard by webdataset's own reader."""
    with path.open("rb") as file:
        members = tariterators.tar_file_expander([{"url": str(path), "stream": file}])
        return [
            {name: value for name, value in raw.items() if name != "__url__"}
            for raw in tariterators.group_by_keys(members)
        ]


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["data", *argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# Paths and URLs


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_urls_are_read_as_files_are(kind: str, foreign: Path, memory: str) -> None:
    place = memory if kind == "memory" else f"file://{foreign}"
    if kind == "memory":
        upload(foreign, place)
    shards = urls.expand([f"{place}/{{00000..00002}}.tar"])
    assert len(urls.expand([place])) == len(urls.expand([f"{place}/*.tar"])) == 3
    tally = Tally()
    assert samples_of(shards[1], tally) == samples_of(str(foreign / "00001.tar"))
    assert tally.sha256 == sha256(foreign / "00001.tar")
    assert urls.size(shards[1]) == tally.bytes


def test_the_hub_is_asked_through_its_own_file_system() -> None:
    import huggingface_hub

    system, path = urls._file_system("hf://datasets/someone/pairs/00000.tar")
    assert isinstance(system, huggingface_hub.HfFileSystem)
    assert path == "datasets/someone/pairs/00000.tar"
    with pytest.raises(OSError, match=r"hf://datasets/someone/pairs/00000\.tar"):  # there is no network in tests
        samples_of("hf://datasets/someone/pairs/00000.tar")


def test_a_file_that_is_not_there_is_named(tmp_path: Path, memory: str) -> None:
    for place in (str(tmp_path / "00000.tar"), f"{memory}/00000.tar"):
        with pytest.raises(OSError, match=r"00000\.tar"):
            samples_of(place)
        assert not urls.exists(place)


# img2dataset's layout


def test_samples_come_as_they_are(foreign: Path) -> None:
    tally = Tally()
    found = samples_of(str(foreign / "00002.tar"), tally)
    wanted = [img2dataset.sample(2, row) for row in range(5)]
    assert found == wanted
    assert (tally.samples, tally.losses()) == (5, {})
    assert image_of(found[0]).size == (64, 64)
    assert metadata_of(found[0])["AESTHETIC_SCORE"] == json.loads(wanted[0]["json"])["AESTHETIC_SCORE"]


def test_webdataset_reads_the_same(foreign: Path) -> None:
    ours = samples_of(str(foreign / "00000.tar"))
    for mine, other in zip(ours, theirs(foreign / "00000.tar"), strict=True):
        assert other == mine


def test_a_caption_may_stand_in_the_metadata(tmp_path: Path) -> None:
    def without_text(made: dict[str, Any], row: int) -> dict[str, Any]:
        if row != 1:
            del made["txt"]
        if row == 2:
            made["json"] = b'{"caption": null}'
        return made

    tally = Tally()
    found = samples_of(img2dataset.write(tmp_path, 1, 4, change=without_text)[0], tally)
    assert [caption_of(raw) for raw in found] == [
        json.loads(img2dataset.sample(0, row)["json"])["caption"] for row in (0, 1, 3)
    ]
    assert tally.dropped == {"no caption": 1}


def test_pictures_are_turned_as_they_say(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert image_of({"__key__": "a", "jpg": path.read_bytes()}).size == (20, 30)


def test_equal_samples_make_equal_bytes(tmp_path: Path) -> None:
    made = [img2dataset.sample(0, row) for row in range(3)]
    first, second = (write_tar(tmp_path / name, map(dict, made)) for name in ("a.tar", "b.tar"))
    assert first == second
    assert first["sha256"] == sha256(tmp_path / "a.tar")
    assert first["bytes"] == (tmp_path / "a.tar").stat().st_size
    assert samples_of(str(tmp_path / "b.tar")) == made
    with pytest.raises(ValueError, match="no embeddings"):
        raise ValueError("; ".join(_losses(tmp_path / "b.tar")))


def _losses(path: Path) -> list[str]:
    tally = Tally()
    assert not list(read_shard(path, tally))
    return list(tally.dropped)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    (tmp_path / "00000.tar.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device, while writing"):
        write_tar(path, [img2dataset.sample(0, 0)])
    assert list(tmp_path.iterdir()) == []


# Indexes


def test_training_reads_from_a_url(own: Path, memory: str) -> None:
    upload(own, memory)
    near, far = (
        next(iter(ShardStream(Index.read(place).shards, ImageTransform(16), batch_size=3, seed=0)))
        for place in (own, memory)
    )
    assert near.keys == far.keys
    assert torch.equal(near.images, far.images)


def test_a_changed_shard_is_not_trained_on(own: Path, tmp_path: Path) -> None:
    for path in own.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = Index.read(tmp_path).shards[0]
    data = bytearray(shard.path.read_bytes())
    data[data.index(b"a red square")] ^= 1
    shard.path.write_bytes(data)
    assert len(list(read_shard(shard.path))) == shard.samples
    with pytest.raises(ValueError, match=r"00000.tar has the sha256 \w{12}"):
        load_shard(shard)


@pytest.mark.parametrize(
    ("expected", "dtype", "message"),
    [
        ({"t5": "t5_xxl"}, None, r"'t5' .* are of another encoder: name 't5', where 't5_xxl' is expected"),
        ({"t5": {"name": "t5", "sha256": "cd"}}, None, "sha256 'ab', where 'cd'"),
        ({"t5": {"width": 4096}}, None, "width 8, where 4096"),
        ({"clip_image": "clip_image"}, None, "no embeddings 'clip_image'; they have t5"),
        ({"t5": "t5"}, "float16", "are bfloat16, and float16 is expected"),
    ],
)
def test_embeddings_of_another_encoder_are_refused(
    expected: dict[str, Any], dtype: str | None, message: str, own: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        check_embeddings(Index.read(own), expected, dtype)


def test_embeddings_of_the_right_encoder_pass(own: Path, shard_folder: Path) -> None:
    index = Index.read(own)
    check_embeddings(index, {"t5": {"name": "t5", "sha256": "ab", "width": 8, "revision": "unknown here"}}, "bfloat16")
    check_embeddings(Index.read(shard_folder), {"t5": "t5", "clip_image": "clip_image"}, "bfloat16")
    check_embeddings(index, index.identities, index.dtype)


def test_an_index_of_foreign_shards(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in foreign.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert told(capsys, "verify", str(tmp_path))[1].endswith(
        "3 shards without an index to be compared with (ediffi data index)\n"
    )
    assert told(capsys, "index", str(tmp_path))[0] == 0
    shards = Index.read(tmp_path).shards
    assert [(shard.samples, shard.bytes, shard.sha256) for shard in shards] == [
        (5, path.stat().st_size, sha256(path)) for path in sorted(foreign.iterdir())
    ]
    assert told(capsys, "verify", str(tmp_path))[::2] == (0, "")
    assert told(capsys, "index", str(tmp_path))[2].count("exists") == 1
    shards[1].path.write_bytes(shards[0].path.read_bytes()[:5120])
    code, out, err = told(capsys, "verify", str(tmp_path))
    assert code == 1
    assert "has another sha256 than its index says" in out
    assert "00001.tar" in err


def test_verify_looks_into_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cut(made: dict[str, Any], row: int) -> dict[str, Any]:
        return made | ({"jpg": made["jpg"][: len(made["jpg"]) // 2]} if row == 2 else {})

    img2dataset.write(tmp_path, 1, 4, change=cut)
    code, out, err = told(capsys, "verify", str(tmp_path))
    named = "00000.tar: the image of sample '000000002' is a broken image: "
    assert (code, out.count(named), err.count(named)) == (1, 1, 1)
    assert told(capsys, "verify", "--no-decode", str(tmp_path))[0] == 0


@pytest.mark.parametrize(("kind", "name"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
def test_a_compressed_tar_is_called_so(kind: str, name: str, foreign: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", f"w:{kind}") as tar:
        tar.add(foreign / "00000.tar", "a.jpg")
    (problem,) = check_shard(str(tmp_path / "00000.tar")).problems
    assert f"00000.tar is compressed with {name}; shards are plain tars: unpack it" in problem


# Statistics


def test_stats_count_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(made: dict[str, Any], row: int) -> dict[str, Any] | None:
        if row == 3:
            return made | {"jpg": b"no image"}
        return made | {"txt": b""} if row == 4 else made

    shards = img2dataset.write(tmp_path, 2, 6, change=change)
    found = survey(shards)
    wanted = [img2dataset.sample(shard, row) for shard in range(2) for row in (0, 1, 2, 5)]
    similarities = [json.loads(made["json"])["similarity"] for made in wanted]
    lengths = [len(made["txt"].split()) for made in wanted]
    assert found.tally.samples == len(wanted)
    assert found.tally.dropped == {"image broken": 2, "no caption": 2}
    assert found.of("sides") == {64: 8}
    assert found.of("original_sides") == {128: 8}
    assert mean(found.of("words")) == pytest.approx(np.mean(lengths))
    assert mean(found.of("similarity"), 0.01) == pytest.approx(np.mean(similarities), abs=0.005)
    code, out, _ = told(capsys, "stats", str(tmp_path), "--output", str(tmp_path / "stats.json"))
    assert code == 0
    assert "samples dropped: 2 image broken, 2 no caption" in out
    content = json.loads((tmp_path / "stats.json").read_text())
    assert content["samples"] == 8
    assert content["shortest_sides"] == {"64 to 127": 8}


def test_stats_tell_the_embeddings(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = survey(urls.expand([str(own)]))
    assert found.embeddings()["t5"] == {"samples": 8, "tokens": 16, "bytes": 8 * 32, "kinds": {"[n, 8] bfloat16": 8}}
    out = told(capsys, "stats", str(own))[1]
    assert "embeddings t5: [n, 8] bfloat16; 2.0 tokens on average, 256 bytes, 8 samples" in out
    assert "embeddings clip_text: [n, 4] float32" in out
    assert told(capsys, "stats", str(own), "--limit", "1")[1].startswith("1 of 2 shards\n4 samples")
    assert "--limit must be at least 1" in told(capsys, "stats", str(own), "--limit", "0")[2]


def test_quantiles_of_counted_values() -> None:
    values = np.random.default_rng(0).integers(0, 50, 1000)
    counts = {int(value): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}
    for share, value in quantiles(counts).items():
        assert value == np.quantile(values, share, method="inverted_cdf")


def test_numbers_of_metadata() -> None:
    values = {"a": 1, "b": "0.5", "c": None, "d": "x", "e": [1], "f": float("nan"), "g": 10**400, "h": True}
    assert [number(values, name) for name in "abcdefgi"] == [1.0, 0.5, None, None, None, None, None, None]


def test_decoding_is_as_before(shard_folder: Path) -> None:
    """A shard of Toybox, sample by sample, as webdataset and the libraries read it themselves."""
    path = shard_folder / "00000.tar"
    for raw, other in zip(read_shard(path), theirs(path), strict=True):
        assert raw == other
        sample = decode(raw)
        assert (sample.key, sample.caption) == (other["__key__"], other["txt"].decode())
        assert embeddings_of(raw).keys() == sample.embeddings.keys()
