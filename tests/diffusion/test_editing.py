"""Pictures that begin with a picture: strength, masks, and entering at a stage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi.cli import main
from ediffi.diffusion.editing import Edit
from ediffi.pipeline.cascade import Cascade

PROMPT = "a red circle on a pink background"


@pytest.fixture(scope="module")
def cascade(model_folder: Path) -> Cascade:
    return Cascade.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    x = np.linspace(0, 255, 64)
    return Image.fromarray(np.stack(np.broadcast_arrays(x[None], x[:, None], 128.0), -1).astype(np.uint8))


def test_strength_runs_from_the_picture_to_plain_sampling(cascade: Cascade, image: Image.Image) -> None:
    steps = {"num_inference_steps": [8, 8], "seed": 3}
    assert np.array_equal(cascade(PROMPT, edit=Edit(image, 0.0), **steps).images[0], image)
    plain = cascade(PROMPT, **steps).stages
    whole = cascade(PROMPT, edit=Edit(image, 1.0), **steps).stages
    assert all(torch.equal(plain[name], whole[name]) for name in plain)
    original = np.asarray(image, np.float64)
    distances = [
        np.abs(original - np.asarray(cascade(PROMPT, edit=Edit(image, s), **steps).images[0])).mean()
        for s in (0.0, 0.25, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2] < distances[3]


@pytest.mark.parametrize("sampler", ["euler", "heun", "kutta3", "deis", "dpmpp_2m"])
def test_what_the_mask_keeps_is_kept_to_the_pixel(cascade: Cascade, image: Image.Image, sampler: str) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    steps = {"num_inference_steps": [4, 4], "sampler": sampler}
    for strength in (1.0, 0.5):
        out = np.asarray(cascade(PROMPT, edit=Edit(image, strength, mask), **steps).images[0], int)
        change = np.abs(out - np.asarray(image, int))
        assert change[:, 32:].max() == 0
        assert change[:, :32].mean() > 5


def test_a_small_strength_keeps_what_the_stage_before_made(cascade: Cascade, image: Image.Image) -> None:
    made = cascade(PROMPT, num_inference_steps=[20, 10], edit=Edit(image, 0.03)).images[0]
    assert not np.array_equal(made, image), "super-resolution would return the image: 0.03 of its 10 steps is none"


def test_an_edit_in_any_form(tmp_path: Path, image: Image.Image) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    image.save(tmp_path / "in.png")
    clear = Image.fromarray(np.dstack([np.full((64, 64, 3), 255, np.uint8), mask]))
    clear.save(tmp_path / "strokes.png")
    wanted = Edit(image, 0.5, Image.fromarray(mask)).at(16, 2, torch.device("cpu"))
    forms = [(tmp_path / "in.png", tmp_path / "strokes.png"), (np.asarray(image), mask > 0)]
    forms += [(torch.from_numpy(np.array(image)).movedim(-1, 0) / 255, torch.from_numpy(mask))]
    for form, of_mask in forms:
        found = Edit(form, 0.5, of_mask).at(16, 2, torch.device("cpu"))
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.mask, wanted.mask)


def test_a_batch_edits_as_single_runs_do(cascade: Cascade, image: Image.Image) -> None:
    together = cascade(PROMPT, num_images_per_prompt=2, edit=Edit(image, 0.5), seed=4).stages["sr64"]
    second = cascade(PROMPT, first_index=1, edit=Edit(image, 0.5), seed=4).stages["sr64"]
    torch.testing.assert_close(together[1:], second, atol=1e-4, rtol=1e-4)


def test_a_picture_enters_at_the_stage_that_enlarges_it(cascade: Cascade, image: Image.Image) -> None:
    pictures = cascade(PROMPT, low_res=image.resize((16, 16)))
    assert list(pictures.stages) == ["sr64"]
    assert pictures.images[0].size == (64, 64)
    again = cascade(PROMPT, low_res=image.resize((16, 16)), first_stage="sr64")
    assert torch.equal(pictures.stages["sr64"], again.stages["sr64"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda image: Edit(image, 1.5), r"strength must be in \[0, 1\], got 1.5"),
        (lambda image: Edit(image, float("nan")), r"strength must be in \[0, 1\], got nan"),
        (lambda image: Edit(image.resize((64, 32))), "the image is 64x32; it must be square"),
        (lambda image: Edit(image, 1.0, Image.new("L", (32, 32), 255)), "the mask is 32x32, the image 64x64"),
        (lambda image: Edit(image, 1.0, Image.new("L", (64, 64))), "the mask is all black"),
    ],
)
def test_a_wrong_edit_is_named(image: Image.Image, make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(image)


def test_a_wrong_entry_is_named(cascade: Cascade, image: Image.Image) -> None:
    with pytest.raises(ValueError, match="no super-resolution stage 'sr512'; there are sr64"):
        cascade(PROMPT, low_res=image, first_stage="sr512")
    with pytest.raises(ValueError, match="first_stage 'sr64' needs low_res"):
        cascade(PROMPT, first_stage="sr64")


def test_edit_and_upscale_at_the_command_line(
    model_folder: Path, tmp_path: Path, image: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    image.save(tmp_path / "in.png")
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (0, 0, 64, 10))
    mask.save(tmp_path / "mask.png")
    common = ["--model", str(model_folder), "-o", str(tmp_path / "out.png")]
    assert main(["edit", str(tmp_path / "in.png"), PROMPT, "--mask", str(tmp_path / "mask.png"), *common]) == 0
    with Image.open(tmp_path / "out.png") as out:
        assert np.array_equal(np.asarray(out)[:10], np.asarray(image)[:10])
    capsys.readouterr()
    assert main(["upscale", str(tmp_path / "in.png"), PROMPT, *common]) == 0
    assert ": sr64 euler" in capsys.readouterr().out, "the message names the stages that ran"
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == (64, 64)
    half = ["--strength", "0.5", "--num-inference-steps", "[4,2]"]
    assert main(["edit", str(tmp_path / "in.png"), PROMPT, *half, *common]) == 0
    assert "base euler 2 of 4 steps" in capsys.readouterr().out
    assert main(["edit", str(tmp_path / "in.png"), PROMPT, "--strength", "0", *common]) == 0
    assert "no steps" in capsys.readouterr().out
    assert main(["edit", str(tmp_path / "in.png"), PROMPT, "--strength", "2", *common]) == 1
    assert "strength must be in [0, 1], got 2.0" in capsys.readouterr().err
    assert main(["edit", str(tmp_path / "gone.png"), PROMPT, *common]) == 1
    assert "no image" in capsys.readouterr().err
