"""The cascade: folders in and out, pictures that depend on their seed alone, settings that repeat them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ediffi.hub.config import Part
from ediffi.io.images import to_images
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.conditioning import unknown_words
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.style import Switch
from ediffi.pipeline.trained_stage import save_cascade
from ediffi.registry.types import SamplerState

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def cascade(model_folder: Path) -> Cascade:
    return Cascade.from_pretrained(model_folder)


@pytest.fixture
def broken(model_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(model_folder, tmp_path / "broken"))


def edit(model: Path, change) -> None:
    config = json.loads((model / "config.json").read_text())
    change(config)
    (model / "config.json").write_text(json.dumps(config))


def test_stages_hand_on_their_pictures(cascade: Cascade) -> None:
    seen: list[tuple[str, int]] = []

    def progress(stage: str, state: SamplerState) -> None:
        seen.append((stage, state.step))

    pictures = cascade(PROMPT, num_images_per_prompt=2, progress=progress)
    assert [tuple(p.shape) for p in pictures.stages.values()] == [(2, 3, 16, 16), (2, 3, 64, 64)]
    assert seen == [("base", 0), ("base", 1), ("sr64", 0), ("sr64", 1)]
    assert [image.size for image in pictures.images] == [(64, 64)] * 2
    assert not np.array_equal(*map(np.array, pictures.images))


def test_a_picture_is_a_function_of_seed_and_index(cascade: Cascade) -> None:
    pair = cascade([PROMPT, "a green cross"], seed=5).stages["sr64"]
    alone = cascade(PROMPT, seed=5).stages["sr64"]
    torch.testing.assert_close(pair[:1], alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(alone, cascade(PROMPT, seed=5).stages["sr64"])
    assert not torch.allclose(alone, cascade(PROMPT, seed=6).stages["sr64"], atol=1e-2)


def test_the_prompt_and_the_negative_prompt_matter(cascade: Cascade) -> None:
    plain = cascade(PROMPT).stages["base"]
    assert not torch.allclose(plain, cascade("a green cross").stages["base"], atol=1e-4)
    assert not torch.allclose(plain, cascade(PROMPT, negative_prompt="a green cross").stages["base"], atol=1e-4)


def test_settings_repeat_the_picture(cascade: Cascade) -> None:
    first = cascade(PROMPT, seed=3, num_inference_steps=[3, 2], guidance_scale=1.5, sampler="heun")
    settings = json.loads(json.dumps(first.settings))
    assert settings["stages"]["base"]["nfe"] == 5
    again = cascade(
        settings["prompt"],
        seed=settings["seed"],
        num_inference_steps=[s["num_inference_steps"] for s in settings["stages"].values()],
        guidance_scale=[s["guidance_scale"] for s in settings["stages"].values()],
        sampler=settings["stages"]["base"]["sampler"],
    )
    assert torch.equal(first.stages["sr64"], again.stages["sr64"])


def test_presets_reach_each_kind_of_stage(cascade: Cascade) -> None:
    assert [plan.nfe for plan in cascade.plan(SamplingOptions(sampler="paper-steps"))] == [76, 31]
    assert [plan.nfe for plan in cascade.plan(SamplingOptions(sampler="paper-nfe"))] == [25, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "a" * 10_000}, "10000 characters; at most 5000"),
        ({"sampler": "hein"}, "did you mean heun"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(cascade: Cascade, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cascade(**{"prompt": PROMPT, **options})


def test_unknown_words_are_told_and_known_ones_are_not(cascade: Cascade) -> None:
    prompt = "a red zebra, left of the Moon; a blue square"
    assert unknown_words(cascade.encoders, prompt) == ["zebra", "Moon", ";"]
    assert cascade.prompt_notices("a red circle on a pink background") == []
    assert cascade.prompt_notices("a (red:1.5) circle") == [], "marks of weights are no words"


def test_what_no_encoder_reads_is_told_once_in_every_prompt(model_folder: Path, caplog) -> None:
    cascade = Cascade.from_pretrained(model_folder)
    one_step = {"num_inference_steps": [1, 1]}
    for _ in range(2):
        cascade([PROMPT, "a zebra"], negative_prompt="a lion", switch=Switch("a (lynx:2)", 0.5), **one_step)
        assert caplog.messages == ["ignored, not in the vocabulary of tiny: zebra, lion, lynx"]
    cascade(f"{PROMPT} " * 30, **one_step)
    assert [message.partition(",")[0] for message in caplog.messages[1:]] == [
        "too long for t5",
        "too long for clip_text",
    ]


def test_weights_that_are_not_finite_never_become_an_image(model_folder: Path) -> None:
    cascade = Cascade.from_pretrained(model_folder)
    next(cascade.stages[0].denoiser.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="stage 'base' made numbers that are not finite"):
        cascade(PROMPT)


def test_pictures_are_clipped_and_rounded() -> None:
    image = to_images(torch.tensor([-2.0, 0.0, 2.0]).view(1, 3, 1, 1))[0]
    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_a_saved_folder_names_no_code(model_folder: Path) -> None:
    text = (model_folder / "config.json").read_text()
    assert "class_path" not in text
    assert {p.suffix for p in model_folder.rglob("*") if p.is_file()} <= {".json", ".safetensors"}


def test_saving_does_not_write_over(model_folder: Path) -> None:
    with pytest.raises(FileExistsError, match="exists"):
        save_cascade(model_folder, "x", {}, None, [])


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_cascade(tmp_path / "new", "x", {"t5": Part("t5", {})}, tmp_path / "nowhere", [])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(broken: Path) -> None:
    (broken / "sr64.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"sr64\.safetensors is missing"):
        Cascade.from_pretrained(broken)


def test_a_truncated_file_is_named(broken: Path) -> None:
    path = broken / "base.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"base\.safetensors has sha256 .* truncated or changed"):
        Cascade.from_pretrained(broken)


def test_a_flipped_bit_is_found(broken: Path) -> None:
    path = broken / "base.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="sha256"):
        Cascade.from_pretrained(broken)


def test_a_truncated_encoder_is_named(broken: Path) -> None:
    path = broken / "encoders" / "t5" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        Cascade.from_pretrained(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="ediffi-cascade-9"), "has the format 'ediffi-cascade-9'"),
        (lambda c: c["stages"][0]["denoiser"].update(name="unet_tuybox"), "did you mean unet_toybox"),
        (lambda c: c["stages"][0]["denoiser"]["arguments"].update(chanels=3), "takes no argument 'chanels'"),
        (lambda c: c["stages"][0]["denoiser"]["arguments"].update(channels=64), "has the weights of another network"),
        (lambda c: c["stages"][0].pop("experts"), "not a complete"),
        (lambda c: c["stages"][0]["sampling"].update(steps=3), "not a complete"),
    ],
)
def test_a_wrong_config_is_named(broken: Path, change, message: str) -> None:
    edit(broken, change)
    with pytest.raises(ValueError, match=message):
        Cascade.from_pretrained(broken)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model 'toyboks'"):
        Cascade.from_pretrained("toyboks")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Cascade.from_pretrained(tmp_path)


def test_bad_sampling_settings_are_named() -> None:
    with pytest.raises(ValueError, match="num_inference_steps"):
        Sampling(num_inference_steps=0)
    with pytest.raises(ValueError, match="did you mean"):
        Sampling().with_sampler("eular", super_resolution=False)
