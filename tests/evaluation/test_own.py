"""A set of one's own is read from shards, tables, COCO's layout and texts alike, and what is wrong with it is named."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset import TarWriter

from ediffi.evaluation.datasets.catalogue import open_dataset
from ediffi.evaluation.datasets.own import OwnImages, open_own
from ediffi.evaluation.images.found import find_images
from ediffi.evaluation.judge import Candidate, Judge
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.suite import ClipChoice, Suite
from ediffi.io.distributed import DistributedContext
from ediffi.io.images import BadImageError
from tests.evaluation.evaluations import side_by_side

NAMES = ("one", "two", "three")


def picture(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def encoded(index: int) -> bytes:
    file = io.BytesIO()
    picture(index).save(file, "png")
    return file.getvalue()


def fill(root: Path, kind: str) -> dict[str, Any]:
    """Three images with the captions "a  picture of one", ...; the options that read them."""
    folder = root / "pictures" if kind in ("csv", "tsv", "jsonl", "json") else root
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "shards":
        with TarWriter(str(root / "00000.tar"), encoder=False) as tar:
            for index, name in enumerate(NAMES):
                text = f"a  picture of {name}"
                own = {"json": json.dumps({"caption": text}).encode()} if index else {"txt": text.encode()}
                tar.write({"__key__": name, "png": encoded(index), **own})
        return {}
    for index, name in enumerate(NAMES):
        (folder / f"{name}.png").write_bytes(encoded(index))
    rows = [{"file_name": f"{name}.png", "caption": f"a  picture of {name}"} for name in NAMES]
    if kind == "texts":
        for name, row in zip(NAMES, rows, strict=True):
            (folder / f"{name}.txt").write_text(row["caption"])
        return {}
    if kind in ("csv", "tsv"):
        with (root / f"c.{kind}").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        (root / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        images = [{"id": k, "file_name": f"pictures/{row['file_name']}"} for k, row in enumerate(rows)]
        captions = [{"id": name, "image_id": k, "caption": rows[k]["caption"]} for k, name in enumerate((5, 6, 7))]
        (root / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
        return {"captions": "c.json"}
    return {"captions": f"c.{kind}", "images": "pictures"}


@pytest.mark.parametrize("kind", ["shards", "texts", "csv", "tsv", "jsonl", "json"])
def test_every_kind_holds_the_same_captions_and_images(tmp_path: Path, kind: str) -> None:
    options = fill(tmp_path / "mine", kind)
    found = open_dataset("own", tmp_path / "mine", options)
    items = {item.caption: item for item in found.items()}
    assert list(items) == [f"a picture of {name}" for name in (sorted(NAMES) if kind == "texts" else NAMES)]
    assert {item.key for item in items.values()} == ({"5", "6", "7"} if kind == "json" else set(NAMES))
    for index, name in enumerate(NAMES):
        reference = found.reference(items[f"a picture of {name}"], 20)
        assert np.array_equal(np.array(reference), np.array(picture(index))[:, 5:25])
    assert (found.protocol["pictures"], found.protocol["captions"]) == (3, 3)
    assert found.measure(next(iter(items.values())), picture(0)) == {}


@pytest.mark.parametrize("kind", ["shards", "texts", "csv"])
def test_other_bytes_of_an_image_are_another_set(tmp_path: Path, kind: str) -> None:
    options = fill(tmp_path, kind)
    before = open_own(tmp_path, **options).protocol
    assert open_own(tmp_path, **options).protocol == before
    path = next(path for path in tmp_path.rglob("*") if path.suffix in (".tar", ".png"))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 1
    path.write_bytes(content)
    changed = dict(open_own(tmp_path, **options).protocol)
    assert changed.pop("images_sha256") != before["images_sha256"]
    assert changed.items() <= before.items()


def table(root: Path, text: str) -> OwnImages:
    (root / "x.png").write_bytes(encoded(0))
    (root / "c.csv").write_text(text)
    return open_own(root, "c.csv")


def test_several_captions_of_an_image_have_keys_of_their_own(tmp_path: Path) -> None:
    found = table(tmp_path, 'file_name,caption\nx.png,"one,\nand more"\nx.png,two\nx.png, \n')
    assert [(item.key, item.caption) for item in found.items()] == [("x", "one, and more"), ("x-2", "two")]
    assert found.protocol["blank_captions_left_out"] == 1
    (tmp_path / "c.jsonl").write_text('{"img": "x.png", "text": "one", "key": 7}\n')
    named = open_own(tmp_path, "c.jsonl", image_column="img", caption_column="text", id_column="key")
    assert [item.key for item in named.items()] == ["7"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,caption\nx.png,a\n", r"c\.csv, line 1 has no 'file_name'; it has file, caption"),
        ("file_name,caption\nx.png\n", r"c\.csv, line 2 has no text in 'caption', but None"),
        ("file_name,caption\nx.png,a dog, asleep\n", r"line 2 has more values than columns, such as ' asleep'; quote"),
        ('file_name,caption\nx.png,"a\ny.png,b\n', r"c\.csv, the row that begins in line 2, is broken \(unexp.* quote"),
        ('file_name,caption\nx.png,a\n\ny.png,"b\n', r"the row that begins in line [34], is broken"),
        ("file_name,caption\ny.png,a\n", r"names an image that is not in .*, such as y\.png"),
        ("file_name,caption,caption\nx.png,a,b\n", "has two columns 'caption'"),
        ("file_name,caption\ny.png,a\nz.png,b\n", r"names 2 images that are not in .*, such as y\.png"),
        ("file_name,caption\n../x.png,a\n", r"names the image '\.\./x\.png'; a path inside of"),
        ("file_name,caption\n/etc/x.png,a\n", r"names the image '/etc/x\.png'; a path inside of"),
        ("file_name,caption\nx.png, \n", "has no image with a caption"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises((ValueError, OSError), match=sentence):
        table(tmp_path, text)


def test_what_is_missing_is_counted_or_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*--root names it"):
        open_own(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no image with a caption"):
        open_own(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no captions\.csv in"):
        open_own(tmp_path, "captions.csv")
    (tmp_path / "c.parquet").touch()
    with pytest.raises(ValueError, match=r"captions must be a file of \.csv, \.tsv, \.jsonl, \.json, got 'c\.parquet'"):
        open_own(tmp_path, "c.parquet")
    fill(tmp_path / "texts", "texts")
    (tmp_path / "texts" / "two.txt").unlink()
    (tmp_path / "texts" / "three.png").write_bytes(b"nothing")
    found = open_own(tmp_path / "texts")
    assert found.protocol["images_without_caption"] == 1
    with pytest.raises(BadImageError, match=r"three\.png is not an image"):
        found.reference(next(item for item in found.items() if item.key == "three"), 16)
    with pytest.raises(ValueError, match=r"dataset_options .* are not for own"):
        open_dataset("own", tmp_path, {"colum": 1})


def test_changed_reference_images_are_another_reference(tmp_path: Path, model_folder: Path) -> None:
    fill(tmp_path / "mine", "texts")
    clip = ClipChoice(path=str(model_folder / "encoders" / "clip"))
    suite = Suite("mine", "own", 3, image_size=16, feature_extractor="clip", clip=clip)

    def mean() -> Any:
        dataset = open_own(tmp_path / "mine")
        return Judge(suite, dataset, dataset.items(), tmp_path / "cache").reference().mean

    before = mean()
    assert (mean() == before).all()
    (tmp_path / "mine" / "one.png").write_bytes(encoded(9))
    assert (mean() != before).any()


def test_pairs_are_scored_beside_the_suite_s_own_numbers(tmp_path: Path, model_folder: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet1_1.pth")
    fill(tmp_path / "mine", "texts")
    dataset = open_own(tmp_path / "mine")
    (tmp_path / "theirs").mkdir()
    for index, _ in enumerate(NAMES):
        picture(index + 5).resize((32, 32)).save(tmp_path / "theirs" / f"{index}.png")
    clip = ClipChoice(path=str(model_folder / "encoders" / "clip"))
    chosen = {"lpips_diversity": {"net": "squeeze", "weights": str(tmp_path / "squeezenet1_1.pth")}}
    suite = Suite("mine", "own", 3, image_size=32, feature_extractor="clip", clip=clip, scorers=chosen)
    judge = Judge(suite, dataset, dataset.items(), tmp_path / "cache")
    candidate = Candidate("theirs", find_images(tmp_path / "theirs", [item.key for item in dataset.items()]))
    found = judge(candidate, judge.references(), tmp_path / "rows" / "theirs")
    rows = Rows.read(tmp_path / "rows" / "theirs@lpips_diversity").scores()
    assert found.metrics["lpips_diversity"] == pytest.approx(rows.mean())
    low, high = found.intervals["lpips_diversity"]
    assert 0 <= low < found.metrics["lpips_diversity"] < high
    assert judge.protocol(judge.reference())["scorers"]["lpips_diversity"]["net"] == "squeeze"
    (tmp_path / "theirs" / "1.png").write_bytes(b"broken")
    candidate = Candidate("theirs", find_images(tmp_path / "theirs", [item.key for item in dataset.items()]))
    left = judge(candidate, judge.references(), tmp_path / "rows" / "two", strict=False)
    assert (left.count, len(Rows.read(tmp_path / "rows" / "two@lpips_diversity"))) == (2, 1)
    assert np.abs(rows - left.metrics["lpips_diversity"]).min() < 1e-6


def test_processes_measure_together_and_one_computes_the_numbers(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "mine", "texts")
    dataset = open_own(tmp_path / "mine")
    (tmp_path / "theirs").mkdir()
    for index, _ in enumerate(NAMES):
        picture(index + 5).resize((16, 16)).save(tmp_path / "theirs" / f"{index}.png")
    clip = ClipChoice(path=str(model_folder / "encoders" / "clip"))
    suite = Suite("mine", "own", 3, image_size=16, feature_extractor="clip", clip=clip)
    candidate = Candidate("theirs", find_images(tmp_path / "theirs", [item.key for item in dataset.items()]))
    read, computed = Rows.read.__func__, []  # type: ignore[attr-defined]

    def counted(folder: Path, wanted: int | None = None) -> Rows:
        computed.append(folder)
        return read(Rows, folder, wanted)

    def judged(context: DistributedContext, folder: str = "together") -> Any:
        judge = Judge(suite, dataset, dataset.items(), tmp_path / "cache", context)
        return judge(candidate, judge.references(), tmp_path / folder)

    alone = judged(DistributedContext(), "alone")
    monkeypatch.setattr(Rows, "read", counted)
    one, other = side_by_side(2, judged)
    assert one.metrics == other.metrics
    assert computed.count(tmp_path / "together") == 1
    np.testing.assert_allclose(list(one.metrics.values()), list(alone.metrics.values()), rtol=1e-5, equal_nan=True)


def test_a_suite_is_told_without_the_paths_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    given = {"hpsv2": {"path": str(tmp_path / "net.pt")}, "pickscore": {"path": "yuvalkirstain/PickScore_v1"}}
    suite = Suite("mine", "own", 4, clip=ClipChoice(path=str(tmp_path)), scorers=given)
    known = suite.described()
    assert known["scorers"] == {"hpsv2": {"path": "net.pt"}, "pickscore": {"path": "yuvalkirstain/PickScore_v1"}}
    assert known["clip"] == {"model": "ViT-g-14", "pretrained": "laion2b_s12b_b42k", "path": tmp_path.name}
    assert suite.with_clip("laion/some-clip").described()["clip"]["path"] == "laion/some-clip"
    (tmp_path / "open_clip_config.json").touch()  # it says which network the folder has
    assert suite.described()["clip"] == {"path": tmp_path.name}
