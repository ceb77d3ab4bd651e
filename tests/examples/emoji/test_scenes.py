"""The emoji world's scenes: what the JSON says is what the picture and the caption show."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emojiworld import caption as captions
from emojiworld import shards, world
from emojiworld.scene import render, sample_scene

from ediffi.cli import main
from ediffi.data.index import Index
from ediffi.data.shards import image_of, metadata_of, reject_for_embedding
from ediffi.data.tar import Tally, read_samples
from tests.examples.shapes import ROOT


def first_shard(folder: Path) -> list[dict[str, Any]]:
    return list(read_samples(str(folder / "00000.tar"), Tally(), reject_for_embedding))


@pytest.fixture(scope="module")
def small(sprites: Path) -> world.World:
    return world.open_world(sprites)


def test_a_scene_depends_on_seed_and_index_only(small: world.World) -> None:
    first = shards.scene_and_caption(small, 0, "train", 7)
    shards.scene_and_caption(small, 0, "train", 8)
    assert shards.scene_and_caption(small, 0, "train", 7) == first
    assert shards.scene_and_caption(small, 1, "train", 7) != first
    assert shards.scene_and_caption(small, 0, "test", 7) != first


def test_training_never_sees_what_is_held_out(small: world.World) -> None:
    held_out = small.held_out()
    pairs, together = map(set, (map(tuple, held_out["pairs"]), map(tuple, held_out["together"])))
    assert pairs
    assert together
    seen: Counter[bool] = Counter()
    for split in ("train", "test"):
        for index in range(300):
            scene, _ = shards.scene_and_caption(small, 0, split, index)
            codes = [concept.hexcode for concept in scene.concepts]
            apart = any({a, b} <= set(codes) for a, b in together)
            unseen = apart or any((code, scene.style) in pairs for code in codes)
            assert scene.held_out == unseen
            assert not (unseen and split == "train")
            seen[unseen] += 1
    assert min(seen.values()) > 20


def test_things_are_where_the_boxes_and_the_relation_say(small: world.World) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(small, rng)
        pixels = np.asarray(render(small, scene, 128)).astype(int)
        covered = np.zeros((128, 128), bool)
        for box in scene.boxes:
            left, top, right, bottom = (round(128 * edge) for edge in box)
            covered[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = True
            assert 0 <= box[0] < box[2] <= 1.001
            assert 0 <= box[1] < box[3] <= 1.001
        assert (pixels[~covered] == world.BACKGROUNDS[scene.background]).all()
        centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in scene.boxes]
        if scene.relation in captions.SIDE:
            (x1, y1), (x2, y2) = centres
            along = {"left of": x2 - x1, "right of": x1 - x2, "above": y2 - y1, "below": y1 - y2}[scene.relation]
            across = abs(y1 - y2) if scene.relation in ("left of", "right of") else abs(x1 - x2)
            assert along > across


def test_captions_name_things_as_the_facts_say(small: world.World) -> None:
    rng, seen = np.random.default_rng(1), Counter[str]()
    unseen = {word for concept in world.read_concepts() for word in concept.unseen}
    for _ in range(400):
        scene = sample_scene(small, rng)
        caption = captions.describe(scene, rng)
        truth = captions.facts(scene, caption)
        for concept, thing in zip(scene.concepts, truth["things"], strict=True):
            assert thing["mention"] in (concept.name, *concept.synonyms)
            assert thing["spans"]
            for start, end in thing["spans"]:
                assert caption.text[start:end].lower() == world.bare(thing["mention"])
            seen["synonym"] += thing["synonym"]
        assert (truth["style_name"] is not None) == any(name in caption.text for name in world.STYLES[scene.style])
        assert not any(re.search(rf"\b{re.escape(world.bare(word))}\b", caption.text, re.I) for word in unseen)
        assert not re.search(
            r"\ba [aeio]|\ban [^aeiou8]|  | ,|\bis (grapes|scissors)|(grapes|scissors) is", caption.text
        )
        seen[caption.length] += 1
    assert min(seen[length] for length in captions.LENGTHS) > 50
    assert seen["synonym"] > 20


def test_a_word_stands_for_one_concept() -> None:
    concepts = world.read_concepts()
    words = Counter(word for one in concepts for word in (one.name, *one.synonyms, *one.unseen))
    assert max(words.values()) == 1
    assert len({one.hexcode for one in concepts}) == len(concepts) == 171
    assert sum(bool(one.unseen) for one in concepts) >= 10


def test_the_shards_are_those_that_the_commands_read(
    sprites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sizes have the same scenes, equal calls equal bytes, and `data verify` and `data stats` take them."""
    for name, size in (("a", 32), ("b", 32), ("c", 128)):
        command = [sys.executable, "-m", "emojiworld", "scenes", str(tmp_path / name), "--sprites", str(sprites)]
        done = subprocess.run(
            [*command, "--size", str(size), "--count", "12", "--per-shard", "8"],
            cwd=ROOT / "examples" / "emoji",
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    found = {name: Index.read(tmp_path / name) for name in "abc"}
    assert [shard.samples for shard in found["a"].shards] == [8, 4]
    assert [shard.sha256 for shard in found["a"].shards] == [shard.sha256 for shard in found["b"].shards]
    small, large = (first_shard(tmp_path / name) for name in "ac")
    assert [raw["txt"] for raw in small] == [raw["txt"] for raw in large]
    assert image_of(small[0]).size == (32, 32)
    assert image_of(large[0]).size == (128, 128)
    assert metadata_of(small[0])["things"] == metadata_of(large[0])["things"]
    assert json.loads((tmp_path / "a" / "held_out.json").read_text())["pairs"]
    capsys.readouterr()
    assert main(["data", "verify", str(tmp_path / "c")]) == 0
    assert main(["data", "stats", str(tmp_path / "c")]) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--styles", ""], "no style ''; there are fluent-3d,"),
        (["--concepts", ""], "no concept ''; see concepts.csv"),
        (["--styles", "manga"], "no style 'manga'; there are fluent-3d,"),
        (["--styles", "blob"], "no drawings in .*blob"),
        (["--concepts", "fox,accountant"], "no concept 'accountant'; see concepts.csv"),
        (["--concepts", "1"], "concepts must be from 2 to 171, got 1"),
        (["--concepts", "fxo,rocket"], r"no concept 'fxo'; did you mean fox.*\?"),
        (["--concepts", "fox"], "at least 2 concepts are needed, got 'fox'"),
        (["--concepts", "pizza, a slice of pizza"], "the concept 'slice of pizza' is named twice"),
        (["--styles", "noto, noto"], "the style 'noto' is named twice"),
        (["--size", "8"], "size must be from 16 to 1024, got 8"),
        (["--size", "100000000"], "size must be from 16 to 1024, got 100000000"),
        (["--count", "0"], "count must be at least 1, got 0"),
        (["--style-captions", "1.5"], "the share of style captions must be from 0 to 1, got 1.5"),
    ],
)
def test_wrong_input_is_one_sentence(
    sprites: Path,
    tmp_path: Path,
    options: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from emojiworld.__main__ import main as emojiworld

    monkeypatch.setattr(
        sys, "argv", ["emojiworld", "scenes", str(tmp_path / "out"), "--sprites", str(sprites), *options]
    )
    assert emojiworld() == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {sentence}[^\n]*\n", error), error


def test_an_interrupted_command_is_one_word_and_its_folder_is_taken(sprites: Path, tmp_path: Path) -> None:
    """As by Ctrl+C, which all processes of a terminal get."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "emojiworld", "scenes", str(output), "--sprites", str(sprites), "--size", "32"]
    process = subprocess.Popen(
        [*command, "--count", "5000", "--per-shard", "10", "--workers", "2"],
        cwd=ROOT / "examples" / "emoji",
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what runs in the background
    )
    while process.poll() is None and not (output / "00001.tar").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.endswith("error: interrupted\n")
    shards.begin_shards(output, 500)


def test_concepts_have_their_synonyms_and_articles(sprites: Path) -> None:
    found = world.open_world(sprites, "a fox, pizza,rocket", ["noto", "firefox"])
    assert [one.name for one in found.concepts] == ["a fox", "a slice of pizza", "a rocket"]


def test_what_a_folder_of_sprites_lacks_is_told(sprites: Path, caplog: pytest.LogCaptureFixture) -> None:
    world.open_world(sprites, "fox,pizza,dog")
    assert "left out, no drawing in these styles: 1 of 3 things (dog)" in caplog.messages
    assert any("has no NOTICE" in message for message in caplog.messages)


def test_a_broken_sprite_is_named(sprites: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sprites"
    shutil.copytree(sprites, folder)
    for path in folder.glob("*/1f98a.webp"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1f98a\.webp"):
        shards.write_scenes(world.open_world(folder), tmp_path / "out", 32, 40)


def test_a_folder_with_something_else_is_refused_and_an_interrupted_one_is_taken(
    small: world.World, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out holds letter\.txt, which is none of these shards"):
        shards.write_scenes(small, output, 32, 10, per_shard=4)
    assert [path.name for path in output.iterdir()] == ["letter.txt"]
    (output / "letter.txt").unlink()
    for name in ("held_out.json", "00000.tar", "00002.tar.tmp"):
        (output / name).write_text("half of it")
    with pytest.raises(FileExistsError, match=r"holds 00002\.tar\.tmp"):  # of a run with more shards
        shards.write_scenes(small, output, 32, 8, per_shard=4)
    shards.write_scenes(small, output, 32, 10, per_shard=4)
    assert len(first_shard(output)) == 4


def test_any_number_of_processes_writes_the_same_shards(small: world.World, tmp_path: Path) -> None:
    indexes = [
        shards.write_scenes(small, tmp_path / str(workers), 32, 10, per_shard=4, workers=workers) for workers in (1, 3)
    ]
    assert indexes[0].read_bytes() == indexes[1].read_bytes()
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        shards.write_scenes(small, tmp_path / "none", 32, 10, workers=0)


def test_a_share_of_the_captions_tells_the_style_alone(small: world.World) -> None:
    """Of the same scenes; the other captions are as they were."""
    plain, mixed = ([shards.scene_and_caption(small, 0, "train", k, share) for k in range(200)] for share in (0.0, 0.5))
    assert [scene for scene, _ in plain] == [scene for scene, _ in mixed]
    pairs = [(one, two, scene) for (scene, one), (_, two) in zip(plain, mixed, strict=True)]
    changed = [(caption, scene) for before, caption, scene in pairs if before != caption]
    assert 70 <= len(changed) <= 130
    for caption, scene in changed:
        assert caption.style_name in world.STYLES[scene.style]
        assert re.fullmatch(rf"a (picture|drawing) in {caption.style_name} style|an emoji in .* style", caption.text)
        assert all(not thing["spans"] for thing in captions.facts(scene, caption)["things"])
