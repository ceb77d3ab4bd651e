"""Numbered pictures on disk: what is read is what was written, broken ones are told from foreign ones."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter, tariterators

from ediffi.evaluation.images import claim, stamp
from ediffi.evaluation.images.found import all_images, find_images, natural
from ediffi.evaluation.images.generate import Store, open_store
from ediffi.evaluation.images.numbered import ImageFolder, ImageShards
from ediffi.evaluation.images.stamp import Stamp
from ediffi.io.images import BadImageError

COUNT = 7
MAKERS: dict[str, Callable[[Path], Store]] = {
    "folder": lambda folder: open_store(folder, COUNT),
    "shards": lambda folder: open_store(folder, COUNT, 4),
}


def picture(index: int, size: int = 8) -> Image.Image:
    rng = np.random.default_rng(index)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def fill(store: Store, settings: str = "s") -> Store:
    store.folder.mkdir(exist_ok=True)
    unit = store.unit(2)
    for start in range(0, COUNT, unit):
        numbers = range(start, min(start + unit, COUNT))
        store.write(numbers, settings, ((index, picture(index), f"prompt {index}") for index in numbers))
    store.finish(settings)
    return store


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return fill(MAKERS[request.param](tmp_path / "store"))


def units(store: Store) -> list[range]:
    return [range(start, min(start + store.unit(2), COUNT)) for start in range(0, COUNT, store.unit(2))]


# What is read is what was written


def test_pictures_come_back_by_number(store: Store) -> None:
    assert len(store) == store.count() == COUNT
    for index in reversed(range(COUNT)):
        assert np.array_equal(np.array(store[index]), np.array(picture(index)))
    assert len({store.name(index) for index in range(COUNT)}) == COUNT
    for index in (-1, COUNT):
        with pytest.raises(IndexError, match=f"no image {index} among 7"):
            store[index]


def test_bytes_are_a_function_of_the_pictures(store: Store, tmp_path: Path) -> None:
    again = fill(MAKERS["folder" if isinstance(store, ImageFolder) else "shards"](tmp_path / "again"))
    names = sorted(path.name for path in store.folder.iterdir())
    assert names == sorted(path.name for path in again.folder.iterdir())
    for name in names:
        assert (store.folder / name).read_bytes() == (again.folder / name).read_bytes()
    assert store.fingerprint() == again.fingerprint()
    assert not any(name.endswith(".tmp") for name in names)


def test_the_fingerprint_changes_with_the_pictures(store: Store) -> None:
    before = store.fingerprint()
    unit = units(store)[0]
    store.write(unit, "s", ((index, picture(index, size=9), "other") for index in unit))
    store.finish("s")
    assert store.fingerprint() != before


def test_both_stores_hold_the_same_png_files(tmp_path: Path) -> None:
    folder, shards = (fill(make(tmp_path / name)) for name, make in MAKERS.items())
    for index in range(COUNT):
        with tarfile.open(shards.folder / shards.name(index).partition("/")[0]) as tar:
            member = tar.extractfile(f"{index:05d}.png")
            assert member is not None
            assert member.read() == (folder.folder / folder.name(index)).read_bytes()


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    store = fill(MAKERS["shards"](tmp_path / "store"))
    samples = []
    for path in sorted(store.folder.glob("*.tar")):
        with path.open("rb") as stream:
            members = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            samples += list(tariterators.group_by_keys(members))
    assert [sample["__key__"] for sample in samples] == [f"{index:05d}" for index in range(COUNT)]
    assert [sample["txt"].decode() for sample in samples] == [f"prompt {index}" for index in range(COUNT)]
    assert [json.loads(sample["json"]) for sample in samples] == [{"index": k, "settings": "s"} for k in range(COUNT)]


def test_sha256sum_checks_the_shards(tmp_path: Path) -> None:
    store = fill(MAKERS["shards"](tmp_path / "store"))
    index = json.loads((store.folder / "index.json").read_text())
    assert [row["count"] for row in index["shards"]] == [4, 3]
    for row in index["shards"]:
        content = (store.folder / row["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert (store.folder / f"{row['file']}.sha256").read_text() == f"{row['sha256']}  {row['file']}\n"


def test_texts_stay_with_a_picture(tmp_path: Path) -> None:
    image = picture(0)
    image.info["note"] = "ünï ☃"
    (tmp_path / "a.png").write_bytes(stamp.encode(image, Stamp(3, "abc")))
    with Image.open(tmp_path / "a.png") as found:
        assert found.info["note"] == "ünï ☃"
    assert stamp.stamp_of(tmp_path / "a.png") == Stamp(3, "abc")


# Whole, broken, or foreign


def test_a_whole_store_lacks_nothing(store: Store) -> None:
    for numbers in units(store):
        assert store.verify(numbers, "s") == ([], 0)


@pytest.mark.parametrize("cut", [0, 1, 20, 100, -1, -12, "flip"])
def test_broken_files_are_missing_and_counted(store: Store, cut: int | str) -> None:
    unit = units(store)[1]
    path = store.folder / store.name(unit.start).partition("/")[0]
    content = bytearray(path.read_bytes())
    if cut == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content) if isinstance(cut, str) else bytes(content)[:cut])
    expected = ([unit.start], 1) if isinstance(store, ImageFolder) else (list(unit), len(unit))
    assert store.verify(unit, "s") == expected
    assert store.verify(units(store)[0], "s") == ([], 0)


def test_other_settings_are_foreign(store: Store) -> None:
    with pytest.raises(ValueError, match=r"is not image 0 of this run: it was made with other settings"):
        store.verify(units(store)[0], "other")


def test_another_number_is_foreign(tmp_path: Path) -> None:
    store = fill(MAKERS["folder"](tmp_path / "store"))
    (store.folder / "00001.png").write_bytes((store.folder / "00002.png").read_bytes())
    with pytest.raises(ValueError, match=r"00001\.png is not image 1 of this run: it is image 2"):
        store.verify(range(2), "s")
    picture(1).save(store.folder / "00001.png")
    with pytest.raises(ValueError, match=r"00001\.png is not image 1 of this run: it has no stamp"):
        store.verify(range(2), "s")


def test_unexpected_files_are_seen(store: Store) -> None:
    assert store.unexpected() == []
    kind = "png" if isinstance(store, ImageFolder) else "tar"
    names = [f"0.{kind}", f"00007.{kind}", f"000001.{kind}", f"cat.{kind}"]
    for name in [*names, f"00003.{kind}.tmp", "notes.txt"]:
        (store.folder / name).touch()
    assert store.unexpected() == sorted(names)
    assert store.count() == COUNT


def test_missing_files_are_not_counted(store: Store) -> None:
    (store.folder / store.name(5).partition("/")[0]).unlink()
    there = 6 if isinstance(store, ImageFolder) else 4
    assert store.count() == there


def test_a_shard_holds_whole_batches() -> None:
    with pytest.raises(ValueError, match="shard_size must be a multiple of batch_size, got 4 and 3"):
        ImageShards(Path("x"), 8, 4).unit(3)
    for count, size in ((0, 4), (8, 0)):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            ImageShards(Path("x"), count, size)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        open_store(Path("x"), 0)


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    store = fill(MAKERS["shards"](tmp_path / "store"))
    index = store.folder / "index.json"
    content = json.loads(index.read_text())
    for change, message in (
        ({"format": "other"}, "it has the format 'other'"),
        ({"count": 9}, "does not list the shards of 9 images"),
        ({"shards": 3}, "is no index of images"),
        ({"count": "many"}, "is no index of images"),
    ):
        index.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            ImageShards.read(store.folder)
    index.write_text(json.dumps(content))
    (store.folder / "00001.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"00001\.tar is missing or does not have"):
        ImageShards.read(store.folder)


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    store = fill(MAKERS["shards"](tmp_path / "store"))
    (store.folder / "00001.tar").write_bytes(b"x" * 10_000)
    with pytest.raises(BadImageError, match=r"00001\.tar is a broken shard"):
        MAKERS["shards"](store.folder)[5]


# What a folder is for


SETTINGS = {"seed": 0, "stages": {"base": {"steps": 2, "rho": 7.0}}, "prompts": ["a", "b"], "style": None}


def test_the_same_settings_go_on(tmp_path: Path) -> None:
    digest = claim.record_settings(tmp_path, SETTINGS)
    assert claim.record_settings(tmp_path, dict(reversed(SETTINGS.items()))) == digest == claim.settings_hash(SETTINGS)
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == SETTINGS


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"seed": False}, "seed was 0, now false"),
        ({"stages": {"base": {"steps": 3, "rho": 7.0}}}, "stages.base.steps was 2, now 3"),
        ({"prompts": ["a", "c"]}, 'prompts[1] was "b", now "c"'),
        ({"prompts": ["a"]}, "prompts had 2 entries, now 1"),
        ({"style": {"scale": 1}}, 'style was null, now {"scale": 1}'),
        ({"stages": {"base": {"steps": 2}}}, "stages.base.rho was 7.0, now not given"),
        ({"more": "x" * 99}, 'more was not given, now "' + "x" * 56 + "..."),
        (
            {"seed": 1, "prompts": ["c", "d"], "style": 1},
            'prompts[0] was "a", now "c", prompts[1] was "b", now "d", seed was 0, now 1, and 1 more',
        ),
    ],
)
def test_other_settings_are_refused_by_name(change: dict[str, object], sentence: str, tmp_path: Path) -> None:
    claim.record_settings(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="holds a run with other settings: ") as refused:
        claim.record_settings(tmp_path, SETTINGS | change)
    assert str(refused.value).endswith(f"other settings: {sentence}; choose another folder")


def test_a_broken_or_changed_note_is_refused(tmp_path: Path) -> None:
    claim.record_settings(tmp_path, SETTINGS)
    path = tmp_path / "run.json"
    content = json.loads(path.read_text())
    changed = json.dumps(content | {"settings": SETTINGS | {"seed": 5}})
    for text, reason in (("{", "Expecting"), ("[]", "not of the format"), (changed, "was changed")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"run\.json is broken: .*{reason}"):
            claim.record_settings(tmp_path, SETTINGS)


def test_the_second_of_two_runs_hears_who_holds_the_folder(tmp_path: Path) -> None:
    sentence = rf"is in use by process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\dT\S+"
    with claim.lock(tmp_path), pytest.raises(BlockingIOError, match=sentence), claim.lock(tmp_path):
        pass
    with claim.lock(tmp_path):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ediffi.evaluation.images.claim import lock\n"
        "with lock(Path(sys.argv[1]), int(sys.argv[2])):\n print('in', flush=True)\n time.sleep(60)"
    )
    monkeypatch.setattr(claim, "PATIENCE", 0.1)
    for rank in (0, 1):
        with subprocess.Popen([sys.executable, "-c", code, tmp_path, str(rank)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(BlockingIOError, match=f"process {process.pid} on"), claim.lock(tmp_path):
                pass
            process.kill()
        with claim.lock(tmp_path):
            pass


# Pictures of another system


def names_of(folder: Path, names: list[str], keys: list[str], match: str = "name") -> list[str]:
    for name in names:
        picture(0).save(folder / name)
    found = find_images(folder, keys, match)
    assert found.fingerprint() == find_images(folder, keys, match).fingerprint()
    assert found[0].size == (8, 8)
    return [found.name(index) for index in range(len(found))]


KEYS = ["318", "57", "9"]


@pytest.mark.parametrize(
    ("names", "match", "expected"),
    [
        (["0.png", "1.png", "2.png"], "name", ["0.png", "1.png", "2.png"]),
        (["00002.jpg", "00000.png", "00001.webp"], "name", ["00000.png", "00001.webp", "00002.jpg"]),
        (["9.png", "57.png", "318.png"], "name", ["318.png", "57.png", "9.png"]),
        (["0.png", "1.png", "2.png", "3.png", "57.png"], "name", ["0.png", "1.png", "2.png"]),
        (["x10.png", "x9.png", "x1.png"], "order", ["x1.png", "x9.png", "x10.png"]),
        (["9.png", "57.png", "318.png", "400.png"], "order", ["9.png", "57.png", "318.png"]),
        (["0.png", "1.png", "2.png", *(f"{key}.png" for key in KEYS)], "key", ["318.png", "57.png", "9.png"]),
        (["0.png", "1.png", "2.png", *(f"{key}.png" for key in KEYS)], "index", ["0.png", "1.png", "2.png"]),
    ],
)
def test_files_find_their_captions(names: list[str], match: str, expected: list[str], tmp_path: Path) -> None:
    assert names_of(tmp_path, names, KEYS, match) == expected


@pytest.mark.parametrize(
    ("names", "match", "sentence"),
    [
        ([], "name", "holds no images"),
        (["0.png"], "name", r"has 1 image, but none for caption 1 \(annotation 57\); 1 of 3 are named by number"),
        (["0.png", "1.png"], "order", "has 2 images, and 3 are needed"),
        (["0.png", "1.png", "3.png"], "name", r"none for caption 2 \(annotation 9\); 2 of 3 are named by number"),
        (["a.png", "b.png", "c.png"], "name", r"none for caption 0 \(annotation 318\); 0 of 3"),
        (["0.png", "1.png", "2.png"], "key", r"none for caption 0 \(annotation 318\); 0 of 3 are named by annotation"),
        (["0.png", "1.png", "00001.png", "2.png"], "name", r"two images for caption 1: .*1.png and .*1.png"),
        (["9.png", "9.jpg", "57.png", "318.png"], "name", "two images for caption 2: 9.(png|jpg) and 9.(png|jpg)"),
        (["0.png", "1.png", "2.png", "9.png", "57.png", "318.png"], "name", "by number and by annotation id, such as"),
    ],
)
def test_what_does_not_fit_is_refused(names: list[str], match: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        names_of(tmp_path, names, KEYS, match)


def test_only_pictures_are_looked_at(tmp_path: Path) -> None:
    for name in ("notes.txt", ".hidden.png", "0.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        find_images(tmp_path, KEYS)
    with pytest.raises(NotADirectoryError, match="no folder"):
        find_images(tmp_path / "gone", KEYS)


def test_natural_order() -> None:
    assert natural(["a10b", "a9b", "10", "9", "a09b", "b"]) == ["9", "10", "a09b", "a9b", "a10b", "b"]


def test_stores_are_found_again(store: Store) -> None:
    found = find_images(store.folder, [str(100 + index) for index in range(5)])
    assert len(found) == 5
    assert np.array_equal(np.array(found[4]), np.array(picture(4)))
    assert found.name(4) == store.name(4)
    everything = find_images(store.folder, [str(100 + index) for index in range(COUNT)])
    assert everything.fingerprint() == store.fingerprint() != found.fingerprint()
    with pytest.raises(ValueError, match=r"has 7 images, (and 8 are needed|but none for caption 7 \(annotation x\))"):
        find_images(store.folder, ["x"] * 8)


def test_unfinished_shards_are_not_judged(tmp_path: Path) -> None:
    store = fill(MAKERS["shards"](tmp_path / "store"))
    (store.folder / "index.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards without index\.json: the run is not complete"):
        find_images(store.folder, KEYS)


def img2dataset(folder: Path, names: list[list[str]]) -> None:
    """Shards as img2dataset writes them, a list of samples each."""
    folder.mkdir(parents=True)
    for number, own in enumerate(names):
        with TarWriter(str(folder / f"{number:05d}.tar"), encoder=False) as tar:
            for index, name in enumerate(own):
                file = io.BytesIO()
                picture(10 * number + index).save(file, "jpeg")
                tar.write({"__key__": name, "jpg": file.getvalue(), "txt": name.encode(), "json": b"{}"})


def test_shards_of_other_programs_find_their_captions(tmp_path: Path) -> None:
    img2dataset(tmp_path / "numbers", [["000000002", "000000000"], ["000000001"]])
    img2dataset(tmp_path / "ids", [["9", "57"], ["318"]])
    by_number, by_id = find_images(tmp_path / "numbers", KEYS), find_images(tmp_path / "ids", KEYS)
    names = [[images.name(index) for index in range(3)] for images in (by_number, by_id)]
    assert names[0] == ["00000.tar/000000000.jpg", "00001.tar/000000001.jpg", "00000.tar/000000002.jpg"]
    assert names[1] == ["00001.tar/318.jpg", "00000.tar/57.jpg", "00000.tar/9.jpg"]
    # By position in the shards, a caption's image is another one of the same pictures.
    assert np.array_equal(np.array(by_id[0]), np.array(by_number[1]))
    assert np.array_equal(np.array(by_id[1]), np.array(by_number[0]))
    assert len(all_images(tmp_path / "ids" / "00000.tar")) == 2
    with pytest.raises(ValueError, match="has 2 images, but none for caption 0"):
        find_images(tmp_path / "ids" / "00000.tar", KEYS)


def test_shards_that_are_not_whole_or_ambiguous_are_refused(tmp_path: Path) -> None:
    img2dataset(tmp_path / "cut", [["0", "1", "2"]])
    os.truncate(tmp_path / "cut" / "00000.tar", 3 * 512)
    with pytest.raises(ValueError, match=r"00000\.tar is a broken shard"):
        find_images(tmp_path / "cut", KEYS)
    img2dataset(tmp_path / "both", [["0", "1", "2"]])
    picture(0).save(tmp_path / "both" / "0.png")
    with pytest.raises(ValueError, match=r"such as 0\.png, and shards, such as 00000\.tar"):
        find_images(tmp_path / "both", KEYS)
    img2dataset(tmp_path / "twice", [["0", "1"], ["1", "2"]])
    with pytest.raises(ValueError, match=r"two images for caption 1: 00000\.tar/1\.jpg and 00001\.tar/1\.jpg"):
        find_images(tmp_path / "twice", KEYS)


def test_other_content_of_the_same_name_and_size_is_another_fingerprint(store: Store, tmp_path: Path) -> None:
    before = find_images(store.folder, KEYS).fingerprint()
    path = sorted(path for path in store.folder.iterdir() if path.suffix in (".png", ".tar"))[0]
    content = bytearray(path.read_bytes())
    content[-600 if path.suffix == ".tar" else -20] ^= 1
    path.write_bytes(content)
    if path.suffix == ".tar":
        with pytest.raises(ValueError, match=r"00000\.tar was changed: it has another sha256"):
            find_images(store.folder, KEYS).fingerprint()
    else:
        assert find_images(store.folder, KEYS).fingerprint() != before
    img2dataset(tmp_path / "theirs", [["0", "1", "2"]])
    images = find_images(tmp_path / "theirs", KEYS)
    before = images.fingerprint()
    member = images.members[1]  # type: ignore[union-attr]
    with member.tar.open("r+b") as file:
        file.seek(member.offset + member.size - 1)
        file.write(b"x")
    assert find_images(tmp_path / "theirs", KEYS).fingerprint() != before
