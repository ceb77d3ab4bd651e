"""Folders of images and captions as people have them, made into shards by `ediffi data import`."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ediffi.cli import main
from ediffi.data.caption_facts import CaptionFacts
from ediffi.data.importing.run import ImportRun
from ediffi.data.importing.sources import Entry
from ediffi.data.index import Index
from ediffi.data.shards import caption_of, image_of, metadata_of, reject_for_embedding
from ediffi.data.tar import Tally, read_samples

RGB = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
IMAGE = Image.fromarray(RGB)


def content(image: Image.Image = IMAGE, kind: str = "png", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def samples(folder: Path) -> dict[str, dict[str, Any]]:
    """The samples of a folder of shards, by key."""
    shards = Index.read(folder).shards
    return {raw["__key__"]: raw for one in shards for raw in read_samples(one.url, Tally(), reject_for_embedding)}


def captions(folder: Path) -> dict[str, str]:
    return {key: caption_of(raw) for key, raw in samples(folder).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Import the folder, all of it for training; returns the folder of the shards."""

    def run(*words: str, val: str = "0", source: Path | None = None) -> Path:
        assert (
            main(["data", "import", str(source or folder), "--out", str(tmp_path / "out"), "--val", val, *words]) == 0
        )
        return tmp_path / "out" / "train"

    return run


@pytest.fixture
def refusal(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one sentence of an import that fails."""

    def refusal(*words: str) -> str:
        assert main(["data", "import", str(folder), "--out", str(tmp_path / "out"), *words]) in (1, 2)
        told = capsys.readouterr().err
        assert told.splitlines()[-1].startswith("ediffi: error: ")
        assert "Traceback" not in told
        return told

    return refusal


# Where captions are found


def test_texts_beside_images(folder: Path, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "dogs").mkdir()
    for name in ("a.png", "b.v2.png", "dogs/rex.png", "dogs/tag.png", "json.png", "none.png", "blank.png"):
        (folder / name).write_bytes(content())
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf  a red \r\n circle \r\n")
    (folder / "b.v2.txt").write_text("a cross")
    (folder / "dogs/rex.caption").write_text("a dog")
    (folder / "dogs/tag.png.txt").write_text("a tag")
    (folder / "json.json").write_text('{"Prompt": "of JSON", "author": "Ann", "key": "other", "status": "draft"}')
    (folder / "blank.txt").write_text(" \n")
    (folder / "photo.heic").write_bytes(b"x")
    (folder / "._a.png").write_bytes(b"of a Mac")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "long.png").write_bytes(content())
    (folder / "long.txt").write_text("a word " * 20_000)
    shards = run()
    expected = {"a": "a red circle", "b_v2": "a cross", "dogs/rex": "a dog", "dogs/tag": "a tag", "json": "of JSON"}
    assert captions(shards) == expected
    about = metadata_of(samples(shards)["json"])
    assert (about["author"], about["key"], about["status"], about["name"]) == ("Ann", "json", "success", "json.png")
    told = capsys.readouterr().out
    assert "5 images (a text beside each image); left out: 2 without a caption, " in told
    assert "1 with a caption of more than 100,000 characters" in told
    assert "1 other files (.heic)" in told


def test_a_table_of_any_kind(folder: Path, run: Callable[..., Path], tmp_path: Path) -> None:
    def lines(*names: str) -> str:
        rows = zip(names, ("a, b", "c"), strict=True)
        return "\n".join(json.dumps({"path": name, "caption": caption}) for name, caption in rows)

    (folder / "images").mkdir()
    for name in "ab":
        (folder / f"images/{name}.png").write_bytes(content())
    tables = {
        "excel.csv": "Filename;Caption;year\nimages/a.png;a, b;1999\nimages/b.png;c;2000\n",
        "plain.csv": 'file_name,text\nimages/a.png,"a, b"\nimages/b.png,c\n',
        "tabs.tsv": "file\tprompt\nimages/a.png\ta, b\nimages/b.png\tc\n",
        "two.csv": 'image,what is seen\nimages/a.png,"a, b"\nimages/b.png,c\n',
        "lines.jsonl": lines("images/a.png", "images/b.png"),
        "full.jsonl": lines(str(folder / "images/a.png"), str(folder / "images/b.png")),
    }
    for name, text in tables.items():
        (folder / name).write_text(text)
        shards = run("--captions", str(folder / name))
        assert captions(shards) == {"images/a": "a, b", "images/b": "c"}, name
        (folder / name).unlink()
        shutil.rmtree(tmp_path / "out")


def test_a_table_is_found_or_given_as_the_folder(folder: Path, run: Callable[..., Path]) -> None:
    (folder / "a.png").write_bytes(content())
    (folder / "captions.csv").write_text("file_name,caption,year\na.png,a cat,1999\n")
    assert captions(run()) == {"a": "a cat"}
    assert metadata_of(samples(run(source=folder / "captions.csv"))["a"])["year"] == "1999"


def test_an_image_folder_of_hugging_face(folder: Path, run: Callable[..., Path]) -> None:
    """Metadata in each folder; several captions make several samples of the same image."""
    for part in ("train", "test"):
        (folder / part).mkdir()
        (folder / part / "0.png").write_bytes(content())
        rows = [{"file_name": "0.png", "text": f"{part} one"}, {"file_name": "0.png", "text": f"{part} two"}]
        (folder / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = {"test/0": "test one", "test/0-2": "test two", "train/0": "train one", "train/0-2": "train two"}
    assert captions(run()) == expected


@pytest.mark.parametrize("kind", ["struct", "bytes", "names"])
def test_parquet(kind: str, folder: Path, run: Callable[..., Path]) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = [content(Image.fromarray(RGB + np.uint8(row))) for row in range(5)]
    images: list[Any] = {
        "struct": [{"bytes": one, "path": f"{row}.png"} for row, one in enumerate(data)],
        "bytes": data,
        "names": [f"{row}.png" for row in range(5)],
    }[kind]
    texts = [["a 0", "again"], ["a 1"], None, ["a 3"], ["a 4"]]
    (folder / "data").mkdir()
    if kind == "names":
        for row, one in enumerate(data):
            (folder / f"{row}.png").write_bytes(one)
    table = arrow.table({"image": images, "text": texts, "score": [0.5] * 5})
    place = folder / ("captions.parquet" if kind == "names" else "data/train.parquet")
    parquet.write_table(table, place, row_group_size=2)
    shards = run()
    found = {caption_of(raw): np.asarray(image_of(raw)) for raw in samples(shards).values()}
    assert list(found) == ["a 0", "again", "a 1", "a 3", "a 4"]
    for caption, row in (("a 0", 0), ("again", 0), ("a 1", 1), ("a 3", 3), ("a 4", 4)):
        assert np.array_equal(found[caption], RGB + np.uint8(row))
    assert {metadata_of(raw)["score"] for raw in samples(shards).values()} == {0.5}


# What an image becomes


def test_bytes_are_kept_where_a_shard_can_have_them(folder: Path, run: Callable[..., Path]) -> None:
    clear = IMAGE.copy()
    clear.putalpha(128)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")]
    kept = {
        "png": content(clear),
        "jpg": content(IMAGE, "jpeg", exif=turned),
        "webp": content(IMAGE, "webp", lossless=True),
    }
    others = {
        "bmp": content(IMAGE, "bmp"),
        "tif": content(IMAGE, "tiff"),
        "gif": content(frames[0], "gif", save_all=True, append_images=frames[1:]),
    }
    for suffix, data in {**kept, **others}.items():
        (folder / f"{suffix}.{suffix}").write_bytes(data)
        (folder / f"{suffix}.txt").write_text(f"a {suffix}")
    found = samples(run())
    assert {suffix: found[suffix][suffix] for suffix in kept} == kept
    assert image_of(found["jpg"]).size == (40, 48), "turned by its EXIF orientation when it is read"
    assert np.array_equal(np.asarray(image_of(found["bmp"])), RGB)
    assert np.array_equal(np.asarray(image_of(found["tif"])), RGB)
    assert image_of(found["gif"]).getpixel((0, 0)) == (255, 0, 0)


def test_large_images_are_made_smaller(folder: Path, run: Callable[..., Path]) -> None:
    clear = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6
    (folder / "clear.png").write_bytes(content(clear))
    (folder / "photo.jpg").write_bytes(content(IMAGE.resize((96, 64)), "jpeg", exif=turned))
    (folder / "small.png").write_bytes(content(IMAGE.resize((9, 12))))
    for name in ("clear", "photo", "small"):
        (folder / f"{name}.txt").write_text(name)
    found = samples(run("--image-size", "32", "--background", "#ff8800"))
    assert image_of(found["clear"]).size == (48, 32)
    assert image_of(found["clear"]).getpixel((0, 0)) == (255, 136, 0)
    assert image_of(found["photo"]).size == (32, 48)
    assert "jpg" in found["photo"]
    assert image_of(found["small"]).size == (9, 12)
    about = metadata_of(found["photo"])
    assert (about["width"], about["height"], about["original_width"], about["original_height"]) == (32, 48, 64, 96)


def test_broken_images_are_named_and_left_out(
    folder: Path, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = content()
    files = {"whole": whole, "cut": whole[:900], "text": b"not an image", "empty": b""}
    for name, data in files.items():
        (folder / f"{name}.png").write_bytes(data)
        (folder / f"{name}.txt").write_text(name)
    shards = run()
    assert captions(shards) == {"whole": "whole"}
    told = capsys.readouterr()
    for name in ("cut", "text", "empty"):
        assert f"left out: {name}.png" in told.err
    assert "1 sample in 1 shard; left out: 3" in told.out
    index = json.loads((shards / "index.json").read_text())
    assert {name for name, _ in index["shards"][0]["left_out"]} == {"cut.png", "text.png", "empty.png"}
    assert main(["data", "verify", str(shards)]) == 0


# Parts


def entries(count: int) -> list[Entry]:
    return [Entry(f"{number}.png", 1, f"a {number}", Path("no.png"), {}) for number in range(count)]


@given(st.integers(2, 60), st.floats(0.01, 0.4), st.integers(1, 20))
def test_an_image_stays_on_its_side_when_others_are_added(count: int, val: float, more: int) -> None:
    def chosen(number: int) -> set[str]:
        return {entry.name for _, entry in ImportRun(entries(number), Path("x"), val).parts()["val"]}

    try:
        before, after = chosen(count), chosen(count + more)
    except ValueError:  # so few that the hashes put all of them into one part
        return
    assert before
    if len(before) > 1:
        assert before <= after
    assert len(after) < count + more


def test_captions_of_an_image_are_on_one_side() -> None:
    both = [entry._replace(number=number) for entry in entries(50) for number in (1, 2)]
    parts = ImportRun(both, Path("x"), 0.3).parts()
    sides = [{entry.name for _, entry in of} for of in parts.values()]
    assert not sides[0] & sides[1]
    assert len({key for of in parts.values() for key, _ in of}) == 100


def test_names_that_would_be_one_key(folder: Path, run: Callable[..., Path]) -> None:
    for name in ("a.png", "a.jpg", "a b.png", "a_b.png", "ä-2.png"):
        (folder / name).write_bytes(content(IMAGE, "png"))
        (folder / name).with_suffix(".txt").write_text("x")
    found = samples(run())
    assert len(found) == 5
    assert {metadata_of(raw)["name"] for raw in found.values()} == {"a.png", "a.jpg", "a b.png", "a_b.png", "ä-2.png"}


def test_a_name_that_is_no_text(folder: Path, run: Callable[..., Path]) -> None:
    """Of another encoding, as old archives have them; a broken one is still named."""
    for name, data in ((b"\xe4.png", content()), (b"\xff.png", b"x")):
        place = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        place.write_bytes(data)
        place.with_suffix(".txt").write_text("x")
    ((key, raw),) = samples(run()).items()
    assert (key, metadata_of(raw)["name"]) == ("_xe4", "\\xe4.png")


# Stopped and started


def test_a_run_that_was_stopped_goes_on(
    folder: Path, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        (folder / f"{number}.png").write_bytes(content(Image.fromarray(RGB + np.uint8(number))))
        (folder / f"{number}.txt").write_text(f"a {number}")
    words = ["--val", "0.3", "--shard-size", "2"]
    whole = tmp_path / "whole"
    assert main(["data", "import", str(folder), "--out", str(whole), *words]) == 0
    from ediffi.data.importing import run as module

    written, kept = [], module.write_tar

    def stopping(path: Any, samples: Any) -> dict[str, Any]:
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        written.append(str(path))
        return kept(path, samples)

    monkeypatch.setattr(module, "write_tar", stopping)
    assert main(["data", "import", str(folder), "--out", str(tmp_path / "out"), *words]) == 1
    monkeypatch.setattr(module, "write_tar", lambda path, samples: written.append(str(path)) or kept(path, samples))
    run("--shard-size", "2", val="0.3")
    assert len(set(written)) == len(written), "what was done is not done again"
    for part in ("train", "val"):
        names = sorted(path.name for path in (whole / part).iterdir())
        assert names == sorted(path.name for path in (tmp_path / "out" / part).iterdir())
        for name in names:
            assert (whole / part / name).read_bytes() == (tmp_path / "out" / part / name).read_bytes()


def test_other_images_need_another_folder(folder: Path, run: Callable[..., Path], refusal: Callable[..., str]) -> None:
    (folder / "a.png").write_bytes(content())
    (folder / "a.txt").write_text("a")
    run()
    run()
    (folder / "a.txt").write_text("b")
    assert "holds, or is getting, other shards than these (images differ)" in refusal("--val", "0")


# Refused in one sentence


@pytest.mark.parametrize(
    ("files", "words", "said"),
    [
        ({}, (), "has no image with a caption"),
        ({"c.csv": "a,b,c\n1,2,3\n"}, (), "say which column of"),
        (
            {"c.csv": "file_name,text,caption\na.png,x,y\n"},
            (),
            "--caption-column); it has 'file_name', 'text', 'caption'",
        ),
        ({"c.csv": "file_name,text\na.png,x\n"}, ("--caption-column", "txt"), "has no column 'txt'"),
        ({"c.csv": "file_name,text\nother.png,x\n"}, (), "none of the 1 images of c.csv is in"),
        ({"c.csv": "file_name,text\n../out.png,x\n"}, (), "which is outside of"),
        ({"c.csv": "url,text\nhttps://x/a.png,x\n"}, ("--image-column", "url"), "img2dataset downloads such a list"),
        ({"c.csv": "file_name,text\na.png,x,y\n"}, (), "more values than columns"),
        ({"c.csv": ""}, (), "has no rows"),
        ({"c.jsonl": '{"file_name": "a.png", "text": 5}\n'}, (), "must be a text, got 5"),
        ({"c.jsonl": "[1]\n"}, (), "must be an object"),
        ({"c.csv": "file_name,text\na.png,x\n", "d.csv": "x\n1\n"}, (), "has several tables: c.csv, d.csv; --captions"),
        ({"a.json": '{"caption": "x", "title": "y"}'}, (), "--caption-column says which"),
        ({"a.txt": "x"}, ("--caption-column", "tags"), "has the field 'tags'"),
        ({"a.txt": "x"}, ("--image-column", "file"), "--image-column is of a table"),
        ({"a.txt": "x"}, (), "cannot be divided into training and validation; --val 0 uses all"),
        ({"a.txt": "x"}, ("--val", "1"), "val must be a share from 0 to below 1"),
        ({"a.txt": "x"}, ("--val", "0", "--background", "no"), "is no colour"),
        ({"a.txt": "x"}, ("--captions", "no.csv"), "no table no.csv"),
        ({"a.txt": "x"}, ("--captions", "mine/a.txt"), "captions must be a file of .csv"),
        ({"00000.tar": "x"}, (), "has shards already"),
        ({"metadata.parquet": "no"}, (), "is not a Parquet file that can be read"),
    ],
)
def test_refusals(
    files: dict[str, str],
    words: tuple[str, ...],
    said: str,
    folder: Path,
    tmp_path: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "metadata.parquet" in files:
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.png").write_bytes(content())
    if files:
        (folder / "a.png").write_bytes(content())
    for name, text in files.items():
        (folder / name).write_text(text)
    assert said in refusal(*words)
    assert not (tmp_path / "out").exists()


def test_nothing_that_can_be_read(folder: Path, refusal: Callable[..., str]) -> None:
    (folder / "a.png").write_text("no image")
    (folder / "a.txt").write_text("x")
    assert "none of the 1 images for" in refusal("--val", "0")


def test_a_missing_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", "nowhere", "--out", "out"]) == 1
    assert "no folder nowhere with images and captions" in capsys.readouterr().err


def test_encoders_are_asked_for(folder: Path, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.png").write_bytes(content())
    (folder / "a.txt").write_text("x")
    assert main(["embed", "--shards", str(run()), "--out", str(folder / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("ediffi: error: --encoders is missing: give the recipe of a cascade (")
    assert told.count("\n") == 1


# What captions say


def test_captions_are_described(folder: Path, run: Callable[..., Path], tmp_path: Path, capsys) -> None:
    texts = ["a red fox", "A red  FOX", "a cat's tail", "a red fox"]
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text"])
        for number, text in enumerate(texts):
            (folder / f"{number}.png").write_bytes(content())
            table.writerow([f"{number}.png", text])
    shards = run()
    assert main(["data", "stats", str(shards), "--output", str(tmp_path / "stats.json")]) == 0
    told = capsys.readouterr().out
    assert "captions: 10 characters on average, at most 12" in told
    assert "different words: 5; the most frequent: a 4, red 3, fox 3, cat's 1, tail 1" in told
    assert "repeated captions: 2 of 4, most often 'A red FOX' 3 times" in told
    found = json.loads((tmp_path / "stats.json").read_text())["texts"]
    assert (found["different_words"], found["repeated_share"], found["frequent_words"]["fox"]) == (5, 0.5, 3)


def test_repetitions_of_many_captions_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ediffi.data.caption_facts.MOST_CAPTIONS", 512)
    whole, halves = CaptionFacts(), [CaptionFacts(), CaptionFacts()]
    for number in range(12_000):
        text = f"caption {number % 4000}"
        whole.add(text)
        halves[number % 2].add(text)
    halves[0].update(halves[1])
    for facts in (whole, halves[0]):
        assert len(facts.seen) <= 512
        assert facts.repeated == pytest.approx(2 / 3, abs=0.01)
        assert "repeated captions: about " in "\n".join(facts.lines())
