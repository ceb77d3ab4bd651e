"""COCO 2014 validation, in its own file layout, at the size of a handful of Toybox scenes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ediffi.evaluation.datasets.captioned import CaptionDataset, select
from ediffi.evaluation.datasets.catalogue import PUBLISHED, Archive, PublishedDataset, check, prepare
from ediffi.evaluation.datasets.coco import open_coco
from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.io.images import BadImageError, rgb, square

PICTURES, CAPTIONS = 6, 5
SHAPES = [(64, 48), (48, 64), (64, 64), (50, 40), (80, 60), (40, 40)]
SCENES = list(prompts(0, PICTURES))
SMALL = dataclasses.replace(PUBLISHED["coco2014"], images=PICTURES, captions=PICTURES * CAPTIONS)


def file_name(image_id: int) -> str:
    return f"COCO_val2014_{image_id:012d}.jpg"


def annotations() -> dict[str, Any]:
    """What `captions_val2014.json` holds, with its ids out of order as there."""
    ids = [391895, 42, 184613, 7, 522418, 318219]
    images = [
        {"license": 3, "file_name": file_name(key), "height": height, "width": width, "id": key}
        for key, (width, height) in zip(ids, SHAPES, strict=True)
    ]
    captions = [
        {"image_id": key, "id": 0, "caption": f"{SCENES[index][1].text}, view {row}"}
        for row in range(CAPTIONS)
        for index, key in enumerate(ids)
    ]
    for index, caption in enumerate(captions):
        caption["id"] = 7 * (len(captions) - index)
    return {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": captions}


@pytest.fixture
def content() -> dict[str, Any]:
    return annotations()


@pytest.fixture
def root(tmp_path: Path, content: dict[str, Any]) -> Path:
    """The layout of the official archives; the fourth picture is gray."""
    (tmp_path / "val2014").mkdir()
    for index, (image, (scene, _)) in enumerate(zip(content["images"], SCENES, strict=True)):
        picture = Image.fromarray(render(scene, 96)).resize((image["width"], image["height"]))
        picture.convert("L" if index == 3 else "RGB").save(tmp_path / "val2014" / image["file_name"], quality=95)
    write(tmp_path, content)
    return tmp_path


def write(root: Path, content: Any) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "captions_val2014.json").write_text(json.dumps(content))


def test_every_caption_is_an_item_with_its_annotation_and_picture(root: Path, content: dict[str, Any]) -> None:
    data: CaptionDataset = open_coco(root)
    captions = {(str(a["id"]), a["caption"], file_name(a["image_id"])) for a in content["annotations"]}
    assert {(item.key, item.caption, item.image_id) for item in data.items()} == captions
    assert len(data.items()) == PICTURES * CAPTIONS
    assert data.name == "coco2014"


def test_the_protocol_says_what_was_read(root: Path) -> None:
    import hashlib

    data = open_coco(root)
    assert json.loads(json.dumps(dict(data.protocol))) == data.protocol
    sha256 = hashlib.sha256((root / "annotations" / "captions_val2014.json").read_bytes()).hexdigest()
    assert data.protocol["annotations"] == {"file": "captions_val2014.json", "sha256": sha256}
    assert (data.protocol["pictures"], data.protocol["captions"]) == (PICTURES, PICTURES * CAPTIONS)
    assert data.protocol["pictures_without_captions"] == data.protocol["blank_captions_left_out"] == 0
    words = np.mean([len(item.caption.split()) for item in data.items()])
    assert data.protocol["words_per_caption"] == pytest.approx(words, abs=0.05)


def test_only_the_published_set_is_called_coco(root: Path, content: dict[str, Any], monkeypatch: Any) -> None:
    assert open_coco(root).protocol["source"] == "Images in COCO's layout"
    monkeypatch.setattr("ediffi.evaluation.datasets.coco.PICTURES", PICTURES)
    monkeypatch.setattr("ediffi.evaluation.datasets.coco.CAPTIONS", PICTURES * CAPTIONS)
    assert open_coco(root).protocol["source"] == "COCO 2014 validation"
    content["annotations"].pop()
    write(root, content)
    assert open_coco(root).protocol["source"] == "Images in COCO's layout"


def test_the_captions_may_lie_beside_the_pictures(root: Path) -> None:
    wanted = open_coco(root).items()
    (root / "annotations" / "captions_val2014.json").rename(root / "captions_val2014.json")
    assert open_coco(root).items() == wanted


def test_a_selection_does_not_depend_on_the_order_of_the_file(root: Path, content: dict[str, Any]) -> None:
    wanted = select(open_coco(root).items(), 4)
    write(root, content | {"annotations": content["annotations"][::-1], "images": content["images"][::-1]})
    assert select(open_coco(root).items(), 4) == wanted


def test_the_reference_is_the_item_s_own_picture(root: Path) -> None:
    """JPEG keeps a rendered scene within a few values; a gray picture becomes gray RGB."""
    data = open_coco(root)
    names = list(data.shapes)
    for item in data.items():
        found, own = data.reference(item, 24), names.index(item.image_id)
        assert (found.mode, found.size) == ("RGB", (24, 24))
        mode = "L" if own == 3 else "RGB"
        wanted = [Image.fromarray(render(scene, 96)).resize(SHAPES[own]).convert(mode) for scene, _ in SCENES]
        gaps = [np.abs(np.asarray(found, float) - np.asarray(square(rgb(w), 24), float)).mean() for w in wanted]
        assert gaps[own] < 6 < min(gaps[:own] + gaps[own + 1 :])
        assert data.measure(item, found) == {}


def test_white_space_in_captions_is_tidied_and_blank_ones_are_counted(root: Path, content: dict[str, Any]) -> None:
    content["annotations"][0]["caption"] = "  A  red\n circle.\n"
    content["annotations"][1]["caption"] = " \n"
    write(root, content)
    data = open_coco(root)
    captions = {item.key: item.caption for item in data.items()}
    assert captions[str(content["annotations"][0]["id"])] == "A red circle."
    assert str(content["annotations"][1]["id"]) not in captions
    assert data.protocol["blank_captions_left_out"] == 1


def test_pictures_without_captions_are_counted(root: Path, content: dict[str, Any]) -> None:
    left = content["images"][0]["id"]
    write(root, content | {"annotations": [a for a in content["annotations"] if a["image_id"] != left]})
    data = open_coco(root)
    assert data.protocol["pictures_without_captions"] == 1
    assert data.protocol["pictures"] == PICTURES - 1
    assert file_name(left) not in {item.image_id for item in data.items()}


def changed(change: Callable[[dict[str, Any]], object]) -> Any:
    content = annotations()
    change(content)
    return content


INSTANCES = {"id": 1, "image_id": 42, "bbox": [0, 0, 1, 1], "category_id": 18, "area": 1.0}
BAD = {
    "a list": ([], "has no images and annotations"),
    "a number": (3, "has no images and annotations"),
    "no annotations": ({"images": []}, "has no images and annotations"),
    "images of another kind": ({"images": {}, "annotations": []}, "images of .* must be a list of JSON objects"),
    "captions of another kind": ({"images": [], "annotations": ["a"]}, "annotations of .* must be a list"),
    "instances": (annotations() | {"annotations": [INSTANCES]}, "annotations of another kind .area, bbox"),
    "no captions": (annotations() | {"annotations": []}, "has no captions"),
    "a missing caption": (changed(lambda c: c["annotations"][2].pop("caption")), "annotation 196 of .* has no caption"),
    "a caption that is a number": (
        changed(lambda c: c["annotations"][2].update(caption=3)),
        "196 of .* has no caption",
    ),
    "half a character": (changed(lambda c: c["annotations"][2].update(caption="a \ud800")), "196 .* surrogate"),
    "an unknown image": (
        changed(lambda c: c["annotations"][2].update(image_id=5)),
        "196 .* image_id 5, and there is no",
    ),
    "an id twice": (changed(lambda c: c["annotations"][3].update(id=196)), "annotation 196 of .* is listed twice"),
    "an image twice": (changed(lambda c: c["images"].append(c["images"][0])), "image 391895 .* is listed twice"),
    "a name twice": (changed(lambda c: c["images"][0].update(file_name=file_name(42))), "image 42 .* is listed twice"),
    "an id that is a text": (
        changed(lambda c: c["annotations"][2].update(id="a")),
        "annotation 2 of .* has the id 'a'",
    ),
    "an id that is true": (
        changed(lambda c: c["annotations"][2].update(id=True)),
        "annotation 2 of .* has the id True",
    ),
    "a way out": (
        changed(lambda c: c["images"][0].update(file_name="../a.jpg")),
        "image 391895 .* file_name '../a.jpg'",
    ),
    "no name": (changed(lambda c: c["images"][0].pop("file_name")), "image 391895 of .* has the file_name None"),
    "no width": (changed(lambda c: c["images"][0].pop("width")), "image 391895 of .* has the width None"),
    "no height": (changed(lambda c: c["images"][0].update(height=0)), "height 0; an integer of at least 1"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_annotations_that_are_wrong_are_named_in_a_sentence(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "val2014").mkdir()
    write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        open_coco(tmp_path)
    assert "captions_val2014.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "broken", [b"", b'{"images": [', b"\xff\xfe\x00", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"]
)
def test_broken_json_is_named(root: Path, broken: bytes) -> None:
    (root / "annotations" / "captions_val2014.json").write_bytes(broken)
    with pytest.raises(ValueError, match=r"captions_val2014\.json is broken"):
        open_coco(root)


@pytest.mark.parametrize("missing", ["annotations/captions_val2014.json", "val2014"])
def test_what_is_missing_is_named(root: Path, missing: str) -> None:
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"no {Path(missing).name} in .*; `ediffi evaluate prepare coco2014`"):
        open_coco(root)


def test_a_missing_or_broken_picture_is_named(root: Path) -> None:
    data = open_coco(root)
    first, second = select(data.items(), 2)
    data.path(first.image_id).unlink()
    data.path(second.image_id).write_bytes(data.path(second.image_id).read_bytes()[:300])
    with pytest.raises(BadImageError, match=rf"no image .*{first.image_id}"):
        data.reference(first, 16)
    with pytest.raises(BadImageError, match=rf"{second.image_id} is a broken image"):
        data.reference(second, 16)


# --- prepare --------------------------------------------------------------------------------------------------------


def wrong(root: Path, source: PublishedDataset = SMALL, thorough: bool = False) -> str:
    report = check(source, root, thorough)
    assert not report.complete
    assert report.lines[-1] == "incomplete"
    return "\n".join(report.lines)


def test_a_complete_data_set_is_complete(root: Path) -> None:
    for thorough in (False, True):
        report = check(SMALL, root, thorough)
        assert report.complete
        assert [line.strip() for line in report.lines[1:]] == ["there: 30 captions, 6 images", "complete"]


def test_an_empty_place_is_told_what_to_download_where(tmp_path: Path) -> None:
    """Of the real data set: the archives, their sizes, and a command that puts each in its place."""
    report = prepare("coco2014", tmp_path / "my data")
    told = "\n".join(report.lines)
    assert not report.complete
    assert "http://images.cocodataset.org/zips/val2014.zip, 6,645,013,297 bytes, sha256 fe9be816" in told
    assert "http://images.cocodataset.org/annotations/annotations_trainval2014.zip, 252,872,794 bytes" in told
    assert f"unzip -o '{tmp_path}/my data/val2014.zip' -d '{tmp_path}/my data'" in told
    assert told.count("missing:") == 2
    assert not (tmp_path / "my data").exists()


def test_only_what_is_missing_has_to_be_downloaded(root: Path) -> None:
    (root / "annotations" / "captions_val2014.json").unlink()
    told = wrong(root)
    assert "annotations_trainval2014.zip" in told
    assert "val2014.zip -d" not in told.replace("annotations_trainval2014.zip", "")


def test_archives_are_told_apart_by_size_and_hash(root: Path) -> None:
    (root / "val2014").rename(root / "elsewhere")
    here = root / "val2014.zip"
    here.write_bytes(b"12345678")
    sha256 = "ef797c8118f02dfb649607dd5d3f8c7623048c9c063d532cc95c5ed7a898a64f"

    def told(size: int, sha256: str = sha256, thorough: bool = False) -> str:
        archive = Archive("http://127.0.0.1/zips/val2014.zip", "val2014", size, sha256)
        return wrong(root, dataclasses.replace(SMALL, archives=(SMALL.archives[0], archive)), thorough)

    assert "download: http" not in told(8, thorough=True)
    assert "downloaded: val2014.zip; unpack it" in told(8, thorough=True)
    assert "wrong size: val2014.zip has 8 of 9 bytes; resume the download" in told(9)
    assert "wrong: val2014.zip, 8 bytes, is not the published file" in told(7)
    assert "download: http" in told(7)
    assert "unpack it" in told(8, "0" * 64)
    assert "is not the published file" in told(8, "0" * 64, thorough=True)


def test_pictures_that_are_missing_empty_or_no_pictures_are_named(root: Path) -> None:
    names = [file_name(key) for key in (391895, 42, 184613, 7)]
    (root / "val2014" / names[0]).unlink()
    (root / "val2014" / names[1]).write_bytes(b"")
    (root / "val2014" / names[2]).write_text("<html>404</html>")
    (root / "val2014" / names[3]).unlink()
    told = wrong(root)
    assert f"wrong: missing or broken, 4 images: {', '.join(names[:3])} and 1 more" in told
    assert "there: 30 captions, 2 images" in told
    assert "zips/val2014.zip" in told
    assert "annotations_trainval2014.zip" not in told


def test_a_truncated_picture_is_found_by_the_thorough(root: Path) -> None:
    path = root / "val2014" / file_name(42)
    path.write_bytes(path.read_bytes()[:-200])
    assert check(SMALL, root).complete
    assert f"missing or broken, 1 image: {path.name}" in wrong(root, thorough=True)


def test_pictures_of_another_shape_are_wrong_unless_they_are_rare(root: Path, content: dict[str, Any]) -> None:
    content["images"][1]["width"] += 1
    write(root, content)
    assert f"wrong: of another shape than in the annotations, 1 image: {file_name(42)}" in wrong(root)
    assert "zips/val2014.zip" in wrong(root)


def test_annotations_with_other_counts_are_refused(root: Path, content: dict[str, Any]) -> None:
    write(root, content | {"annotations": content["annotations"][:-1]})
    told = wrong(root)
    assert "wrong: the annotations have 29 captions, and 30 were published" in told
    assert "annotations_trainval2014.zip" in told
    assert "the annotations have 6 images, and 40,504 were published" in wrong(root, PUBLISHED["coco2014"])


def test_a_blank_caption_counts_as_published(root: Path, content: dict[str, Any]) -> None:
    content["annotations"][1]["caption"] = " "
    write(root, content)
    assert check(SMALL, root).complete


def test_annotations_of_another_kind_are_named(root: Path, content: dict[str, Any]) -> None:
    write(root, content | {"annotations": [INSTANCES]})
    assert "annotations of another kind" in wrong(root)


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset 'coco' to prepare; allowed: coco2014, visual-genome"):
        prepare("coco", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        prepare("coco2014", tmp_path / "file")
