"""`ediffi sample` and `ediffi inspect`, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ediffi.cli import main

PROMPT = "a red circle on a pink background"


def test_a_picture_is_written_with_its_settings(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.png"
    assert main(["sample", PROMPT, "-o", str(target), "--model", str(model_folder), "--seed", "4"]) == 0
    assert str(target) in capsys.readouterr().out
    with Image.open(target) as image:
        assert image.size == (64, 64)
    assert main(["inspect", str(target)]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert (settings["prompt"], settings["seed"], settings["stages"]["base"]["nfe"]) == (PROMPT, 4, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_several_pictures_are_numbered(model_folder: Path, tmp_path: Path) -> None:
    words = ["sample", PROMPT, "-o", str(tmp_path / "a.png"), "--model", str(model_folder), "--num_images=2"]
    assert main(words) == 0
    with Image.open(tmp_path / "a-0.png") as first, Image.open(tmp_path / "a-1.png") as second:
        assert not np.array_equal(np.array(first), np.array(second))


def test_options_reach_the_stages(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "out.png")
    options = ["--num-inference-steps", "[3,2]", "--guidance-scale", "2.5", "--sampler", "heun"]
    assert main(["sample", PROMPT, "-o", target, "--model", str(model_folder), *options]) == 0
    capsys.readouterr()
    main(["inspect", target])
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [(s["sampler"], s["num_inference_steps"]) for s in stages.values()] == [("heun", 3), ("heun", 2)]
    assert [s["guidance_scale"] for s in stages.values()] == [2.5, 1.0]


def test_words_outside_the_vocabulary_are_told(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "a red zebra", "-o", str(tmp_path / "out.png"), "--model", str(model_folder)]
    assert main(words) == 0
    assert "ignored, not in the vocabulary" in (told := capsys.readouterr().err)
    assert "zebra" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", ""], "prompt is empty"),
        (["sample", "a" * 10_000], "10000 characters"),
        (["sample", PROMPT, "--model", "toyboks"], "no model 'toyboks'"),
        (["sample", PROMPT, "--sampler", "hoin"], "hoin"),
        (["sample", PROMPT, "--paint-weight", "3"], "--paint-weight has no effect without --paint"),
        (["sample", PROMPT, "--switch-at", "0.4"], "--switch-at has no effect without --switch-prompt"),
        (["sample", PROMPT, "--style-scale", "2"], "--style-scale has no effect without --style-image"),
        (["sample", PROMPT, "--num-inference-steps", "0"], "num_inference_steps must be from 1 to 10000, got 0"),
        (["sample", PROMPT, "--num-inference-steps", "-3"], "num_inference_steps must be from 1 to 10000, got -3"),
        (["sample", PROMPT, "--num-images", "0"], "images must be at least 1, got 0"),
        (["sample", PROMPT, "--num-images", "many"], "many"),
        (["sample", PROMPT, "-o", "no/such/folder/out.png"], "does not exist"),
        (["sample", PROMPT, "-o", "out.jpg"], "must end in .png"),
        (["sample", PROMPT, "--seeed", "1"], "seeed"),
        (["inspect", "nothing.png"], "nothing.png"),
    ],
)
def test_bad_input_is_one_clear_line(
    words: list[str],
    message: str,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in words or words[0] == "inspect" else ["--model", str(model_folder)]
    assert main([*words, *model]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("ediffi: error: ")
    assert message in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    assert main(["sample", PROMPT, "-o", str(tmp_path / "out.png"), "--model", str(model_folder)]) == 1
    assert "Permission denied" in capsys.readouterr().err


def test_a_picture_without_settings_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert main(["inspect", str(tmp_path / "plain.png")]) == 1
    assert "holds no settings" in capsys.readouterr().err
    (tmp_path / "text.png").write_text("no image")
    assert main(["inspect", str(tmp_path / "text.png")]) == 1
    assert "is not an image" in capsys.readouterr().err
