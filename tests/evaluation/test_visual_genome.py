"""Visual Genome, in its own file layout, at the size of some Toybox scenes; and how a long caption is joined."""

import dataclasses
import json
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ediffi.evaluation.datasets.annotations import stream
from ediffi.evaluation.datasets.captioned import CaptionDataset, select
from ediffi.evaluation.datasets.catalogue import PUBLISHED, check, prepare
from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.evaluation.datasets.visual_genome import WORDS, RegionDescription, join, open_visual_genome
from ediffi.io.images import BadImageError, square

SCENES = list(prompts(0, 6, length="long"))
IDS = [1, 2, 1592, 2370463, 61512, 7]
SMALL = dataclasses.replace(PUBLISHED["visual-genome"], images=5)
NOUNS = (
    "man",
    "clock",
    "street",
    "tree",
    "car",
    "window",
    "sign",
    "dog",
    "shirt",
    "fence",
    "plate",
    "bus",
    "wall",
    "sky",
)
ADJECTIVES = ("green", "tall", "red", "old", "wooden", "large", "white", "parked", "striped", "blue")


def phrase(rng: random.Random) -> str:
    """About five words, as Visual Genome's regions have."""
    one, other = (f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(2))
    return rng.choice(
        [f"the {one}", f"a {one} on the {other}", f"{one} next to {other}", f"a {one} behind the {other}"]
    )


def regions_of(image_id: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(image_id)
    return [
        {
            "region_id": 1000 * (image_id % 1000) + index,
            "width": rng.randint(10, 500),
            "height": rng.randint(10, 400),
            "image_id": image_id,
            "phrase": phrase(rng),
            "y": rng.randint(-3, 90),
            "x": rng.randint(-3, 90),
        }
        for index in range(count)
    ]


def region_descriptions() -> list[dict[str, Any]]:
    """As of version 1.2: the key of an entry is `id`, and stands behind its regions."""
    return [{"regions": regions_of(key, 40), "id": key} for key in IDS]


def image_data() -> list[dict[str, Any]]:
    """Photographs 2 and 61512 are in COCO, 1592 is known to be corrupt; odd ids lie in the second folder."""
    return [
        {
            "width": 60 + index,
            "url": f"https://cs.stanford.edu/people/rak248/VG_100K{'_2' if key % 2 else ''}/{key}.jpg",
            "height": 50,
            "image_id": key,
            "coco_id": 540 + key if key in {2, 61512} else None,
            "flickr_id": None,
        }
        for index, key in enumerate(IDS)
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for entry, (scene, _) in zip(image_data(), SCENES, strict=True):
        folder = tmp_path / entry["url"].split("/")[-2]
        folder.mkdir(exist_ok=True)
        picture = Image.fromarray(render(scene, 96)).resize((entry["width"], entry["height"]))
        picture.save(folder / f"{entry['image_id']}.jpg", quality=95)
    write(tmp_path, region_descriptions(), image_data())
    return tmp_path


def write(root: Path, regions: Any = None, images: Any = None) -> None:
    for name, content in (("region_descriptions.json", regions), ("image_data.json", images)):
        if content is not None:
            (root / name).write_text(json.dumps(content))


def distances(image: Image.Image, others: list[Image.Image]) -> list[float]:
    """Mean absolute differences, in steps of 255; JPEG alone makes some."""
    return [float(np.abs(np.asarray(image, float) - np.asarray(other, float)).mean()) for other in others]


# --- joining --------------------------------------------------------------------------------------------------------

PHRASES = st.lists(st.sampled_from(["a", "man", "red", "Car", "the", "tree", "on", "of"]), max_size=7).map(" ".join)
REGIONS = st.lists(st.builds(RegionDescription, st.integers(0, 99), st.integers(0, 9), PHRASES), max_size=30)


@given(REGIONS, st.floats(1, 80), st.randoms(use_true_random=False))
def test_a_caption_does_not_depend_on_the_order_of_the_regions(
    regions: list[RegionDescription], words: float, rng: random.Random
) -> None:
    assert join(rng.sample(regions, len(regions)), words) == join(regions, words)


@given(REGIONS, st.floats(1, 80))
def test_a_caption_is_made_of_distinct_phrases_the_large_ones_first(
    regions: list[RegionDescription], words: float
) -> None:
    caption = join(regions, words)
    sentences = [sentence.casefold() for sentence in caption.removesuffix(".").split(". ")] if caption else []
    areas = {
        r.phrase.casefold(): max(q.area for q in regions if q.phrase.casefold() == r.phrase.casefold()) for r in regions
    }
    assert [areas[sentence] for sentence in sentences] == sorted((areas[s] for s in sentences), reverse=True)
    for index, sentence in enumerate(sentences):
        assert not any(set(sentence.split()) <= set(earlier.split()) for earlier in sentences[:index])


@given(REGIONS, st.floats(1, 80))
def test_a_caption_grows_with_its_target_and_comes_near_it(regions: list[RegionDescription], words: float) -> None:
    """Within half of the longest phrase, unless the regions say no more."""
    caption, whole = join(regions, words), join(regions, 1e9)
    assert whole.startswith(caption)
    count, longest = len(caption.split()), max((len(region.phrase.split()) for region in regions), default=0)
    assert count <= max(words, 1) + longest or not caption
    if caption != whole:
        assert abs(count - words) <= longest / 2 or caption.count(".") == 1


def test_a_known_caption() -> None:
    regions = [
        RegionDescription(3, 900, "the clock is green in colour"),
        RegionDescription(1, 5000, "a man on a wide street."),
        RegionDescription(2, 5000, "trees"),
        RegionDescription(4, 800, "A Street"),
        RegionDescription(5, 700, "street with a man"),
    ]
    assert join(regions) == "A man on a wide street. Trees. The clock is green in colour. Street with a man."
    assert join(regions, 7) == "A man on a wide street. Trees."
    assert join(regions, 1) == "A man on a wide street."
    tied = [RegionDescription(1, 9, "a man"), RegionDescription(2, 8, "two trees")]
    assert join(tied, 3) == "A man."  # 2 and 4 words are equally near to 3
    assert join([]) == join([RegionDescription(1, 1, ""), RegionDescription(2, 1, " .")]) == ""


def test_captions_have_the_paper_s_number_of_words() -> None:
    rng = random.Random(0)
    lengths = [
        len(
            join([RegionDescription(i, rng.randint(1, 10**5), phrase(rng)) for i in range(rng.randint(20, 80))]).split()
        )
        for _ in range(500)
    ]
    assert np.mean(lengths) == pytest.approx(WORDS, abs=0.5)
    assert np.std(lengths) < 3


# --- the data set ---------------------------------------------------------------------------------------------------


def test_a_picture_has_one_caption_joined_of_its_regions(root: Path) -> None:
    data: CaptionDataset = open_visual_genome(root, exclude_coco=False)
    assert [(item.key, item.image_id) for item in data.items()] == [(str(i), f"{i}.jpg") for i in IDS if i != 1592]
    for item in data.items():
        regions = [
            RegionDescription(r["region_id"], r["width"] * r["height"], r["phrase"])
            for r in regions_of(int(item.key), 40)
        ]
        assert item.caption == join(regions)
    assert data.name == "visual-genome"


def test_pictures_that_coco_has_are_left_out_by_default(root: Path) -> None:
    data = open_visual_genome(root)
    assert [item.key for item in data.items()] == ["1", "2370463", "7"]
    assert data.protocol["pictures_in_coco_left_out"] == 2
    assert data.protocol["pictures_known_corrupt_left_out"] == 1
    assert open_visual_genome(root, exclude_coco=False).protocol["pictures_in_coco_left_out"] == 0


def test_the_protocol_says_what_was_read(root: Path) -> None:
    import hashlib

    protocol = open_visual_genome(root, words=30).protocol
    assert json.loads(json.dumps(dict(protocol))) == protocol
    assert protocol["annotations"] == [
        {"file": name, "sha256": hashlib.sha256((root / name).read_bytes()).hexdigest()}
        for name in ("region_descriptions.json", "image_data.json")
    ]
    assert (protocol["pictures"], protocol["captions"], protocol["pictures_without_captions"]) == (3, 3, 0)
    assert abs(protocol["words_per_caption"] - 30) < 3
    assert protocol["caption_rule"].endswith("nearest to 30 words")


@pytest.mark.parametrize("key", ["id", "image_id", "both"])
def test_both_keys_of_an_entry_are_understood(root: Path, key: str) -> None:
    wanted = open_visual_genome(root).items()
    entries = [
        {"regions": entry["regions"], **{name: entry["id"] for name in ("id", "image_id") if key in {name, "both"}}}
        for entry in region_descriptions()
    ]
    write(root, entries)
    assert open_visual_genome(root).items() == wanted


def test_a_photograph_may_be_named_by_its_regions_only(root: Path) -> None:
    wanted = open_visual_genome(root).items()
    entries = [
        {"regions": [{**region, "image_id": entry["id"]} for region in entry["regions"]]}
        for entry in region_descriptions()
    ]
    write(root, entries)
    assert open_visual_genome(root).items() == wanted
    entries[0]["regions"][1]["image_id"] = IDS[1]
    write(root, entries)
    with pytest.raises(ValueError, match=r"entry 0 of .* has no image_id, and its regions have several"):
        open_visual_genome(root)


def test_a_selection_does_not_depend_on_the_order_of_the_files(root: Path) -> None:
    wanted = select(open_visual_genome(root).items(), 2)
    regions = [{**entry, "regions": entry["regions"][::-1]} for entry in region_descriptions()[::-1]]
    write(root, regions, image_data()[::-1])
    assert select(open_visual_genome(root).items(), 2) == wanted


def test_the_reference_is_the_item_s_own_picture_in_either_folder(root: Path) -> None:
    data = open_visual_genome(root, exclude_coco=False)
    assert {data.path(item.image_id).parent.name for item in data.items()} == {"VG_100K", "VG_100K_2"}
    before = {item.key: data.reference(item, 24) for item in data.items()}
    for item in data.items():
        shape = data.shapes[item.image_id]
        scenes = [square(Image.fromarray(render(scene, 96)).resize(shape), 24) for scene, _ in SCENES]
        own, *others = distances(before[item.key], [scenes.pop(IDS.index(int(item.key))), *scenes])
        assert own < 6 < min(others)
        assert data.measure(item, scenes[0]) == {}
    for path in (root / "VG_100K").iterdir():  # all in one folder, as some unpack them
        path.rename(root / "VG_100K_2" / path.name)
    (root / "VG_100K").rmdir()
    data = open_visual_genome(root, exclude_coco=False)
    assert {item.key: data.reference(item, 24) for item in data.items()} == before


def test_a_url_is_no_path(root: Path) -> None:
    """Only the name of one of the two folders is taken from it."""
    images = image_data()
    images[0]["url"], images[1]["url"], images[3]["url"] = "https://127.0.0.1/../../etc/1.jpg", None, "VG_100K_3/7.jpg"
    write(root, images=images)
    data = open_visual_genome(root, exclude_coco=False)
    assert {data.path(item.image_id).parent for item in data.items()} == {root / "VG_100K", root / "VG_100K_2"}
    assert all(data.path(item.image_id).is_file() for item in data.items())


def test_white_space_is_tidied_and_what_is_blank_is_counted(root: Path) -> None:
    regions = region_descriptions()
    regions[0]["regions"] = regions[0]["regions"][:4]
    for region, text in zip(regions[0]["regions"], [" a \n red  dog. ", " ", None, "."], strict=True):
        region["phrase"] = text
    regions[3]["regions"] = []
    write(root, regions)
    data = open_visual_genome(root)
    assert [item.key for item in data.items()] == ["1", "7"]
    assert data.items()[0].caption == "A red dog."
    assert data.protocol["blank_phrases_left_out"] == 3
    assert data.protocol["pictures_without_captions"] == 1


def changed(make: Callable[[], Any], change: Callable[[Any], object]) -> Any:
    content = make()
    change(content)
    return content


def regions(change: Callable[[Any], object]) -> Any:
    return changed(region_descriptions, change), None


def images(change: Callable[[Any], object]) -> Any:
    return None, changed(image_data, change)


def without_id(entry: dict[str, Any]) -> None:
    """An entry of an edition in which only the regions say the photograph's id, and they do not."""
    del entry["id"]
    for region in entry["regions"]:
        del region["image_id"]


BAD = {
    "an object": ((image_data()[0], None), "region_descriptions.json is not a list"),
    "numbers": (([1, 2], None), "entry 0 of .*region_descriptions.json has no regions"),
    "the other file": ((image_data(), None), "entry 0 of .*region_descriptions.json has no regions"),
    "nothing": (([], None), "region_descriptions.json has no captions for the 3 photographs"),
    "no id": (regions(lambda r: without_id(r[1])), "entry 1 of .* has the image_id None"),
    "two ids": (regions(lambda r: r[1].update(image_id=5)), "entry 1 of .* has the image_id 5 and the id 2"),
    "an unknown image": (
        regions(lambda r: r[1].update(id=5)),
        "entry 1 of .* is of the image 5, which image_data.json",
    ),
    "an image twice": (regions(lambda r: r.append(r[0])), "image 1 of .*region_descriptions.json is listed twice"),
    "no list of regions": (regions(lambda r: r[0].update(regions={})), "regions of image 1 of .* must be a list"),
    "no region id": (regions(lambda r: r[0]["regions"][1].pop("region_id")), "region 1 of image 1 .* region_id None"),
    "a phrase of numbers": (
        regions(lambda r: r[0]["regions"][1].update(phrase=3)),
        "region 1001 of .* has the phrase 3",
    ),
    "half a box": (regions(lambda r: r[0]["regions"][1].update(width=1.5)), "region 1001 of .* has the width 1.5"),
    "images in an object": ((None, {"images": []}), "image_data.json must be a list of JSON objects"),
    "an image without a shape": (
        images(lambda i: i[0].pop("width")),
        "image 1 of .*image_data.json has the width None",
    ),
    "an image without an id": (images(lambda i: i[0].pop("image_id")), "entry 0 of .*image_data.json .* image_id None"),
    "a strange coco id": (
        images(lambda i: i[0].update(coco_id="a")),
        "image 1 of .*image_data.json has the coco_id 'a'",
    ),
    "an entry twice": (images(lambda i: i.append(i[0])), "image 1 of .*image_data.json is listed twice"),
}


@pytest.mark.parametrize(("contents", "message"), BAD.values(), ids=BAD)
def test_annotations_that_are_wrong_are_named_in_a_sentence(root: Path, contents: Any, message: str) -> None:
    write(root, *contents)
    with pytest.raises(ValueError, match=message) as caught:
        open_visual_genome(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["region_descriptions.json", "image_data.json"])
@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_broken_json_is_named(root: Path, name: str, share: float) -> None:
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"{name} is broken") as caught:
        open_visual_genome(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", [b'[{"id": \xff\xfe}]', b"[1, 2] 3", b"[1, 2}", b'[{"id": 1} {"id": 2}]'])
def test_a_stream_that_is_no_json_is_named(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "a.json").write_bytes(broken)
    with pytest.raises(ValueError, match=r"a\.json is broken .*: \S"):
        list(stream(tmp_path / "a.json"))


@pytest.mark.parametrize("content", [[], [1, "a", None, {"a": [1.5, {"b": "ü"}]}], region_descriptions()])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_stream_is_what_json_reads(tmp_path: Path, content: list[Any], indent: int | None) -> None:
    (tmp_path / "a.json").write_text(("\n" if indent else "") + json.dumps(content, indent=indent))
    assert list(stream(tmp_path / "a.json")) == content


def test_a_stream_takes_little_memory(tmp_path: Path) -> None:
    """json.load would take some three times what stands in the file."""
    path = tmp_path / "region_descriptions.json"
    write(tmp_path, [{"regions": regions_of(key, 40), "id": key} for key in range(600)])
    tracemalloc.start()
    assert sum(1 for _ in stream(path)) == 600
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 3


@pytest.mark.parametrize("missing", ["region_descriptions.json", "image_data.json"])
def test_a_missing_file_is_named(root: Path, missing: str) -> None:
    (root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no {missing} in .*; `ediffi evaluate prepare visual-genome`"):
        open_visual_genome(root)


def test_missing_pictures_are_named(root: Path) -> None:
    data = open_visual_genome(root)
    first, second = select(data.items(), 2)
    data.path(first.image_id).unlink()
    data.path(second.image_id).write_bytes(b"")
    with pytest.raises(BadImageError, match=rf"no image .*{first.image_id}"):
        data.reference(first, 16)
    with pytest.raises(BadImageError, match=rf"{second.image_id} is empty"):
        data.reference(second, 16)
    for name in ("VG_100K", "VG_100K_2"):
        (root / name).rename(root / f"no {name}")
    with pytest.raises(FileNotFoundError, match="no VG_100K and VG_100K_2 in "):
        open_visual_genome(root)


@pytest.mark.parametrize("words", [0, -1, float("nan")])
def test_a_target_below_a_word_is_refused(root: Path, words: float) -> None:
    with pytest.raises(ValueError, match="words must be at least 1"):
        open_visual_genome(root, words=words)


# --- prepare --------------------------------------------------------------------------------------------------------


def test_a_complete_data_set_is_complete(root: Path) -> None:
    """The picture that is known to be corrupt may be what it likes."""
    (root / "VG_100K" / "1592.jpg").write_bytes(b"corrupt")
    report = check(SMALL, root)
    assert [line.strip() for line in report.lines[1:]] == ["there: 5 captions, 5 images", "complete"]
    assert report.complete


def test_an_empty_place_is_told_what_to_download_where(tmp_path: Path) -> None:
    report = prepare("visual-genome", tmp_path)
    told = "\n".join(report.lines)
    assert not report.complete
    assert told.count("missing:") == told.count("download: https://") == told.count("unzip -o ") == 4
    assert "https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip, 9,731,705,982 bytes, sha256 51c682d2" in told
    assert "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/region_descriptions.json.zip\n" in told


def test_only_the_folder_with_missing_pictures_is_downloaded_again(root: Path) -> None:
    (root / "VG_100K_2" / "7.jpg").unlink()
    report = check(SMALL, root)
    told = "\n".join(report.lines)
    assert not report.complete
    assert "missing or broken, 1 image: 7.jpg" in told
    assert "images2.zip" in told
    assert "images.zip" not in told


def test_rare_pictures_of_another_shape_are_odd_and_many_are_wrong(root: Path) -> None:
    ids = [*IDS, *range(10_000, 12_000)]
    entry = {**image_data()[1], "width": 8, "height": 8}
    (root / "VG_100K" / "10000.jpg").write_bytes((root / "VG_100K" / "2.jpg").read_bytes())
    Image.new("RGB", (8, 8)).save(root / "VG_100K" / "10001.jpg")
    for key in ids[8:]:
        (root / "VG_100K" / f"{key}.jpg").hardlink_to(root / "VG_100K" / "10001.jpg")
    write(root, images=image_data() + [entry | {"image_id": key} for key in ids[6:]])
    source = dataclasses.replace(SMALL, images=len(ids) - 1)
    report = check(source, root)
    assert report.complete
    assert "  odd: of another shape than in the annotations, 1 image: 10000.jpg" in report.lines
    for key in (10_001, 10_002, 10_003):
        (root / "VG_100K" / f"{key}.jpg").unlink()
        Image.new("RGB", (8, 9)).save(root / "VG_100K" / f"{key}.jpg")
    report = check(source, root)
    assert not report.complete
    assert (
        "  wrong: of another shape than in the annotations, 4 images: 10000.jpg, 10001.jpg, 10002.jpg and 1 more"
        in report.lines
    )


def test_an_archive_of_unknown_size_is_whole_or_not(root: Path) -> None:
    """The end of a zip file lists what is in it, so a part of one is seen."""
    here = root / "region_descriptions.json.zip"
    with zipfile.ZipFile(here, "w") as archive:
        archive.write(root / "region_descriptions.json", "region_descriptions.json")
    (root / "region_descriptions.json").unlink()
    assert "  downloaded: region_descriptions.json.zip; unpack it" in check(SMALL, root).lines
    here.write_bytes(here.read_bytes()[:-100])
    told = "\n".join(check(SMALL, root).lines)
    assert "is not a whole archive; resume the download\n  download: https://" in told


def test_broken_annotations_are_downloaded_again(root: Path) -> None:
    (root / "region_descriptions.json").write_text("[{")
    told = "\n".join(check(SMALL, root).lines)
    assert "wrong:" in told
    assert "region_descriptions.json is broken" in told
    assert "region_descriptions.json.zip" in told
    assert "images.zip" not in told
    assert told.endswith("incomplete")
