"""The suite's prompts are of their kinds, and a judge that was trained on scenes reads their pictures rightly."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emojiworld import suite, world
from emojiworld.curve import SHOWN, draw_curve
from emojiworld.judge import train_judge
from emojiworld.shards import write_scenes
from emojiworld.sheets import GAP, SIDE, WORDS, write_sheets
from PIL import Image

from ediffi.evaluation.datasets.captioned import ControlledDataset, select
from ediffi.evaluation.datasets.catalogue import open_dataset
from ediffi.evaluation.datasets.emoji.dataset import FILE, KINDS
from tests.examples.shapes import ROOT


@pytest.fixture(scope="module")
def small(sprites: Path) -> world.World:
    return world.open_world(sprites)


@pytest.fixture(scope="module")
def written(small: world.World, new_folder: Callable[[str], Path]) -> Path:
    return suite.write_suite(small, new_folder("suite") / "emoji", size=64, per_kind=10).parent


@pytest.fixture(scope="module")
def judge(small: world.World, new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("judge")
    write_scenes(small, folder / "train", 64, 512, "test", seed=1)
    write_scenes(small, folder / "test", 64, 64, "test")
    accuracy = train_judge(folder / "judge", folder / "train", folder / "test", epochs=16, width=24)
    assert accuracy["concepts of 1"] > 0.8
    assert json.loads((folder / "judge" / "config.json").read_text())["accuracy"] == accuracy
    return folder / "judge"


def test_prompts_are_of_their_kinds(small: world.World, written: Path, tmp_path: Path) -> None:
    scenes = [json.loads(line) for line in (written / FILE).read_text().splitlines()]
    assert [scene["kind"] for scene in scenes] == [kind for kind in KINDS for _ in range(10)]
    seen = {word for concept in world.read_concepts() for word in (concept.name, *concept.synonyms)}
    for scene in scenes:
        kind, things = scene["kind"], scene["things"]
        assert scene["held_out"] == (kind == "held-out pairs")
        assert len(things) == (2 if kind in ("two things", "painted areas") else 1)
        assert (scene["style_name"] is None) == (kind == "style image")
        assert (written / "styles" / f"{scene['key']}.png").exists() == (kind == "style image")
        assert (things[0]["mention"] in seen) == (kind != "unseen synonyms")
        for thing, area in zip(things, scene.get("areas", ()), strict=False):
            assert area["phrase"] in scene["caption"]
            left, top, right, bottom = thing["box"]
            assert area["box"][0] <= left + 1e-3 <= right - 1e-3 <= area["box"][2]
            assert area["box"][1] <= top + 1e-3 <= bottom - 1e-3 <= area["box"][3]
        assert len(scene.get("areas", ())) == (2 if kind == "painted areas" else 0)
    again = suite.write_suite(small, tmp_path / "again", size=64, per_kind=10)
    assert again.read_bytes() == (written / FILE).read_bytes()
    with pytest.raises(ValueError, match="size must be from 16 to 1024, got 7"):
        suite.write_suite(small, tmp_path / "none", size=7)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        suite.write_suite(small, tmp_path / "none", seed=-1)
    with pytest.raises(FileExistsError, match="again exists; choose another folder or remove it"):
        suite.write_suite(small, tmp_path / "again")


def test_the_judge_reads_the_drawings_themselves(written: Path, judge: Path) -> None:
    dataset = open_dataset("emoji", written, {"judge": str(judge)})
    items = dataset.items()
    rows = [dataset.measure(item, dataset.reference(item, 64)) for item in items]
    assert all(list(row) == list(rows[0]) for row in rows)
    means = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
    assert means["seen pairs/concept"] >= 0.7, means
    assert 0.6 <= means["painted areas/inside"] <= means["painted areas/each"], means
    swapped = [dataset.measure(item, dataset.reference(items[(k + 7) % 60], 64)) for k, item in enumerate(items)]
    assert np.nanmean([row["seen pairs/concept"] for row in swapped]) <= 0.4
    assert {name: sum(not np.isnan(row[name]) for row in rows) for name in rows[0]} == dict.fromkeys(rows[0], 10)


def test_a_mirrored_picture_has_the_wrong_relation(written: Path, judge: Path) -> None:
    dataset = open_dataset("emoji", written, {"judge": str(judge), "kinds": ["two things"]})
    right = wrong = 0.0
    for item in dataset.items():
        turned = dataset.reference(item, 64).transpose(Image.Transpose.ROTATE_180)
        right += dataset.measure(item, dataset.reference(item, 64))["two things/relation"]
        wrong += dataset.measure(item, turned)["two things/relation"]
    assert right >= 5
    assert wrong <= 1


def test_prompts_come_with_their_style_images_and_areas(written: Path, judge: Path) -> None:
    dataset = open_dataset("emoji", written, {"judge": str(judge)})
    assert isinstance(dataset, ControlledDataset)
    found = {kind: dataset.controls(dataset.items()[10 * number]) for number, kind in enumerate(KINDS)}
    assert [kind for kind, controls in found.items() if controls.style is not None] == ["style image"]
    assert [kind for kind, controls in found.items() if controls.areas] == ["painted areas"]
    assert len(select(dataset.items(), 60)) == 60


def test_wrong_files_are_one_sentence(written: Path, judge: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no scenes.jsonl in .*: write it by `python -m emojiworld suite`"):
        open_dataset("emoji", tmp_path)
    with pytest.raises(ValueError, match=r"no kind 'faces' of prompts; there are seen pairs, "):
        open_dataset("emoji", written, {"judge": str(judge), "kinds": ["faces"]})
    with pytest.raises(ValueError, match=r"holds no judge of scenes"):
        open_dataset("emoji", written, {"judge": str(tmp_path)})
    dataset = open_dataset("emoji", written, {"judge": str(judge)})
    with pytest.raises(ValueError, match=r"the pictures in .* are 64 a side; write them with --size 256"):
        dataset.reference(dataset.items()[0], 256)
    (tmp_path / FILE).write_text('{"key": "0", "kind": "faces"}\n')
    with pytest.raises(ValueError, match=r"scenes.jsonl, line 1 is no scene: it has no 'caption'"):
        open_dataset("emoji", tmp_path, {"judge": str(judge)})


def test_contact_sheets_show_the_first_images_of_each_kind(written: Path, tmp_path: Path) -> None:
    scenes = [json.loads(line) for line in (written / FILE).read_text().splitlines()][::-1]  # a run has its own order
    run = tmp_path / "run"
    (run / "guidance-3").mkdir(parents=True)
    (run / "selection.jsonl").write_text("".join(json.dumps(scene) + "\n" for scene in scenes))
    for row in range(len(scenes)):
        Image.new("RGB", (64, 64), (4 * row, 255 - 4 * row, 128)).save(run / "guidance-3" / f"{row:05}.png")
    places = write_sheets(run, written, tmp_path / "sheets", count=9)
    assert [place.stem for place in places] == sorted(kind.replace(" ", "-") for kind in KINDS)
    for place in places:
        rows = [row for row, scene in enumerate(scenes) if scene["kind"].replace(" ", "-") == place.stem][:9]
        sheet = np.asarray(Image.open(place).convert("RGB")).astype(int)
        for number, row in enumerate(rows):
            top, left = number // 8 * (SIDE + WORDS), number % 8 * (SIDE + GAP)
            assert abs(sheet[top + 90, left + 40] - (4 * row, 255 - 4 * row, 128)).max() < 12
        corner = sheet[10:22, 10:22]
        style = (
            Image.open(written / "styles" / f"{scenes[rows[0]]['key']}.png") if place.stem == "style-image" else None
        )
        if style is not None:
            expected = np.asarray(style.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
            assert abs(corner - expected[10:22, 10:22]).mean() < 12
    with pytest.raises(FileNotFoundError, match=r"has no folder guidance-\.\.\. of images"):
        write_sheets(tmp_path, written, tmp_path / "none")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        write_sheets(run, written, tmp_path / "none", count=0)
    (run / "selection.jsonl").write_text(json.dumps({**scenes[0], "caption": "a fox"}) + "\n")
    with pytest.raises(ValueError, match=r"has prompts that are not in .*, such as 'a fox'"):
        write_sheets(run, written, tmp_path / "none")


def test_the_curve_of_a_model_is_drawn(tmp_path: Path) -> None:
    results = json.loads((ROOT / "benchmarks/results/emoji_model.json").read_text())
    assert set(results["aims"]) <= set(SHOWN)
    images = [point["images"] for point in results["points"]]
    assert images == sorted(images)
    for point in results["points"]:
        for metric, (low, high) in point["intervals"].items():
            assert low <= point["metrics"][metric] <= high or metric not in SHOWN
    draw_curve(ROOT / "benchmarks/results/emoji_model.json", tmp_path / "new" / "curve.png")
    with Image.open(tmp_path / "new" / "curve.png") as figure:
        assert figure.width > 1000
    with pytest.raises(ValueError, match=r"give it a name with \.png, got .*curve"):
        draw_curve(ROOT / "benchmarks/results/emoji_model.json", tmp_path / "curve")
    for content in ("hello", "[]", "{}"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match=r"other\.json has no points with images, metrics and intervals, and aims"):
            draw_curve(tmp_path / "other.json", tmp_path / "curve.png")
