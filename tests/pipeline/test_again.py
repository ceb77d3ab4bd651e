"""An image is sampled once more from its file alone: `ediffi inspect --again`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ediffi.cli import main
from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region
from ediffi.hub import finding
from ediffi.io import png
from ediffi.io.images import difference, open_image
from ediffi.pipeline import inputs
from ediffi.pipeline.again import Repetition
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.style import Style, Switch

PROMPTS = ["a red circle above a blue square", "a (blue:1.3) square and a red circle"]
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
PICTURE, OTHER = Image.fromarray(NOISE), Image.fromarray(NOISE[::-1].copy())
SOFT = np.linspace(0.1, 1, 64, dtype=np.float32)[None].repeat(64, 0)  # of no 256 levels
AREA = [[0.0, 0.0], [0.7, 0.1], [0.5, 0.9]]


@pytest.fixture(scope="module")
def cascade(model_folder: Path) -> Cascade:
    return Cascade.from_pretrained(model_folder, "cpu")


def regions(phrase: str, mask: Any = AREA) -> list[Region]:
    return [Region(phrase, mask, 1.5), Region("square", SOFT, occurrence=1)]


CALLS: dict[str, dict[str, Any]] = {
    "plain": {"seed": 3, "num_images_per_prompt": 2, "negative_prompt": "a cross"},
    "settings": {
        "num_inference_steps": [3, 2],
        "guidance_scale": [2.5, 1.5],
        "sampler": "heun",
        "guidance_interval": (0.3, 8.0),
        "dynamic_threshold": 0.99,
    },
    "schedules": {"sigmas": [[20.0, 3.0, 0.5], None], "guidance_scale": [[(20.0, 1.0), (0.5, 4.0)], 1.0]},
    "layout": {"paint": regions("circle"), "paint_weight": [0.4, 0.2], "num_images_per_prompt": 2},
    "style": {"style": Style(PICTURE, 0.7)},
    "switch": {"switch": Switch("a green cross", 0.5), "first_index": 4},
    "edit": {"edit": Edit(PICTURE, 0.6, SOFT)},
    "enlarged": {"low_res": OTHER.resize((16, 16)), "first_stage": "sr64"},
    "each": {
        "seed": [7, 8, 9, 10],
        "num_images_per_prompt": 2,
        "negative_prompt": [None, "a cross"],
        "style": [Style(PICTURE), Style(OTHER)],
        "paint": [regions("circle"), regions("blue square", np.eye(32, dtype=np.float32))],
        "paint_weight": 0.4,
    },
    "edits of each": {"edit": [Edit(PICTURE, 0.5), Edit(OTHER, 0.5, SOFT > 0.5)]},
    "noise": {"noise": {"base": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}},
}


@pytest.mark.parametrize("name", CALLS)
def test_each_image_of_a_batch_is_made_again(name: str, cascade: Cascade, tmp_path: Path) -> None:
    """With its batch to the bit, alone but for rounding; from the file alone."""
    made = cascade(PROMPTS, progress_bar=False, **CALLS[name])
    paths = made.save(tmp_path / "a.png")
    for index, path in enumerate(paths):
        again = Repetition(png.settings_of(path), inputs.found(png.inputs_of(path)))
        assert (again.index, again.batch) == (index, len(made))
        alone = again(cascade)
        apart = np.asarray(alone[0], np.int16) - np.asarray(open_image(path), np.int16)
        assert len(alone) == 1
        assert abs(apart).max() <= 1, "rounding"
        assert (apart != 0).mean() < 0.01
        assert alone.settings["stages"] == made.settings["stages"] or name == "schedules"
        whole = Repetition(again.settings, again.inputs, alone=False)(cascade)
        assert difference(whole[index], open_image(path)) == ""


def test_a_single_image_is_the_same(cascade: Cascade, tmp_path: Path) -> None:
    made = cascade(PROMPTS[0], paint=regions("circle"), paint_weight=0.4, seed=5, progress_bar=False)
    (path,) = made.save(tmp_path / "a.png")
    again = Repetition(png.settings_of(path), inputs.found(png.inputs_of(path)))(cascade)
    assert difference(again[0], open_image(path)) == ""
    assert again.settings == made.settings


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32), st.booleans())
def test_inputs_come_back_to_the_bit(height: int, width: int, seed: int, levels: bool) -> None:
    numbers = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    numbers = (numbers * 255).round() / 255 if levels else numbers * 3 - 1
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    files = inputs.stored([{"mask": numbers}, image], numbers)
    assert len(files) == 2, "equal ones once"
    found = inputs.found(files)
    back = found[inputs.digest(numbers)]
    assert isinstance(back, torch.Tensor)
    assert torch.equal(back, numbers)
    assert difference(found[inputs.digest(image)], image) == ""


def test_large_inputs_are_left_out(cascade: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_BYTES", 100)
    (path,) = cascade(PROMPTS[0], style=PICTURE, progress_bar=False).save(tmp_path / "a.png")
    again = Repetition(png.settings_of(path), inputs.found(png.inputs_of(path)))
    with pytest.raises(ValueError, match="does not hold the style image that the image was made with, only its hash"):
        again(cascade)


# The command


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["inspect", *words]) in (1, 2)
    told = capsys.readouterr().err
    assert told.startswith("ediffi: error: ")
    assert told.count("\n") == 1
    return told


@pytest.fixture
def painted(model_folder: Path, tmp_path: Path) -> Path:
    """Two images of a layout, as the command line makes them."""
    (tmp_path / "layout.json").write_text(json.dumps([{"phrase": "red circle", "mask": AREA}]))
    words = ["--paint", str(tmp_path / "layout.json"), "--paint-weight", "0.4", "--num-images", "2"]
    assert main(["sample", PROMPTS[0], "--model", str(model_folder), "-o", str(tmp_path / "a.png"), *words]) == 0
    (tmp_path / "layout.json").unlink()
    return tmp_path / "a-1.png"


def test_the_command(painted: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["inspect", str(painted), "--again", "--model", str(model_folder)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == [str(painted.with_stem("a-1-again")), "every pixel is the same"]
    again = painted.with_stem("a-1-again")
    assert difference(open_image(again), open_image(painted)) == ""
    assert main(["inspect", str(again), "--again", "--model", str(model_folder), "-o", str(again)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "every pixel is the same", "once more of the one more"


def test_images_of_a_file_of_prompts_find_their_inputs_beside_them(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "layout.json").write_text(json.dumps([{"phrase": "red circle", "mask": AREA}]))
    (tmp_path / "prompts.txt").write_text("\n".join(["a red circle", PROMPTS[0]]))
    PICTURE.save(tmp_path / "style.png")
    words = ["--paint", str(tmp_path / "layout.json"), "--paint-weight", "0.4", "-o", str(tmp_path / "out")]
    words += ["--style-image", str(tmp_path / "style.png"), "--batch-size", "1"]
    sample = ["sample", "--prompts", str(tmp_path / "prompts.txt"), "--model", str(model_folder), *words]
    assert main(sample) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")) == [
        "00000.png",
        "00001.png",
        "inputs.json",
        "run.json",
    ]
    assert main(sample) == 0, "the finished run is resumed"
    image = tmp_path / "out" / "00001.png"
    assert (
        main(["inspect", str(image), "--again", "--model", str(model_folder), "-o", str(tmp_path / "again.png")]) == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == "every pixel is the same"
    (tmp_path / "out" / "inputs.json").write_text("[]")
    told = error(capsys, str(image), "--again", "--model", str(model_folder))
    assert "inputs.json must be a JSON object" in told
    (tmp_path / "out" / "inputs.json").unlink()
    told = error(capsys, str(image), "--again", "--model", str(model_folder))
    assert "does not hold the style image that the image was made with, only its hash" in told


def test_another_model_is_told(painted: Path, model_folder: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    assert "is of the model 'tiny': --model says where that is" in error(capsys, str(painted), "--again")
    assert "was made by another model: 'tiny', of the sha256" in error(
        capsys, str(painted), "--again", "--model", "toybox"
    )
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    config = json.loads((other / "config.json").read_text())
    config["stages"][0]["sampling"]["guidance_scale"] = 9.0
    (other / "config.json").write_text(json.dumps(config))
    assert "and this one is 'tiny'" in error(capsys, str(painted), "--again", "--model", str(other))


def test_a_model_that_only_an_image_names_is_not_downloaded(painted: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """An image from elsewhere would make requests otherwise, and fill the disk."""
    asked: list[Any] = []

    def snapshot(address: Any, offline: bool) -> Path:
        asked.append(offline)
        raise FileNotFoundError(f"{address} is not in the cache of the Hub")

    monkeypatch.setattr(finding, "snapshot", snapshot)
    png.save(open_image(painted), tmp_path / "image.png", png.settings_of(painted) | {"model": "some-org/some-model"})
    capsys.readouterr()
    told = error(capsys, str(tmp_path / "image.png"), "--again")
    assert "--model says where that is" in told
    assert asked == [True]
    error(capsys, str(tmp_path / "image.png"), "--again", "--model", "some-org/some-model")
    assert asked == [True, False], "the user names it"


def test_images_that_cannot_be_made_again(painted: Path, model_folder: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    place, settings = tmp_path / "odd.png", png.settings_of(painted)
    model = ["--again", "--model", str(model_folder)]
    older = {key: value for key, value in settings.items() if key != "model_sha256"}
    stage = settings["stages"]["base"]
    cases: list[tuple[dict[str, Any], str]] = [
        (settings, "does not hold the layout that the image was made with"),
        ({**older, "paint": []}, ""),
        ({**older, "paint": [], "model": "x"}, "was made by the model 'x', not 'tiny'"),
        ({**older, "paint": [], "prompt": None}, "was made from embeddings"),
        ({**older, "paint": [], "stages": {"base": stage, "sr9": stage}}, "was made by the stages base, sr9"),
        ({**older, "paint": [], "stages": {"base": {**stage, "sampler": "<Mine>"}}}, "by a sampler without a name"),
        ({**older, "paint": [], "stages": {"base": {}}}, "the settings of the image are broken"),
        ({**older, "paint": [], "seed": -1}, "seed must be at least 0"),
        ({**older, "paint": 5}, "the settings of the image are broken"),
        ({**older, "paint": [], "dtype": "int7"}, "int7"),
    ]
    for changed, said in cases:
        png.save(open_image(painted), place, changed)
        if said:
            assert said in error(capsys, str(place), *model)
        else:
            assert main(["inspect", str(place), *model]) == 0
            assert "pixels differ" in capsys.readouterr().out, "another layout is another image"
    assert "--output and --model are of --again" in error(capsys, str(painted), "--output", "x.png")
