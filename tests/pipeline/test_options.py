"""How each option of a generation reaches the stages, by exact values, in a cascade of recording denoisers."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.cascade_generator import CascadeGenerator
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.pipeline.style import Style, Switch
from ediffi.registry.random import Philox, randn
from ediffi.registry.types import Conditioning, Embedding
from tests.pipeline.test_stage import Recorder

BASE = Sampling("euler", num_inference_steps=4, guidance_scale=1.0, sigma_min=0.1, sigma_max=10.0)


class Words:
    """A text encoder whose tokens are the lengths of the words."""

    def __call__(self, texts: Sequence[str]) -> Embedding:
        tokens, mask = self.tokenize(texts)
        return Embedding(tokens[..., None].float(), mask)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [[len(word) for word in text.split()][:9] for text in texts]
        tokens = torch.tensor([row + [0] * (9 - len(row)) for row in rows])
        return tokens, tokens > 0

    def token_range(self, text: str, start: int, end: int) -> range:
        first = len(text[:start].split())
        return range(first, first + len(text[start:end].split()))

    def token_strings(self, text: str) -> list[str]:
        return text.split()

    def truncated_text(self, text: str) -> str:
        return " ".join(text.split()[9:])


class Pixels:
    """An image encoder whose token is the mean of the image."""

    def __call__(self, images: Tensor) -> Embedding:
        return Embedding(images.mean((1, 2, 3)).view(-1, 1, 1), torch.ones(len(images), 1, dtype=torch.bool))


@pytest.fixture
def cascade() -> Cascade:
    stages = [
        Stage("base", 8, Recorder(), BASE),
        Stage("sr16", 16, Recorder(), BASE, 0.0),
        Stage("sr32", 32, Recorder(), BASE, 0.0),
    ]
    return Cascade("recorded", {"t5": Words(), "clip_image": Pixels()}, stages)


def first(cascade: Cascade, stage: int = 0) -> tuple[Tensor, Tensor, Conditioning]:
    """The first network call of a stage."""
    return cascade.stages[stage].denoiser.calls[0]


def tokens(cond: Conditioning, source: str = "t5") -> list[float]:
    """The first token of each sample."""
    return cond.sources[source].tokens[:, 0, 0].tolist()


def gray(side: int, value: int) -> Image.Image:
    return Image.new("RGB", (side, side), (value,) * 3)


def test_images_of_a_prompt_are_together_and_each_has_its_own_noise(cascade: Cascade) -> None:
    made = cascade(["a", "bb"], num_images_per_prompt=2, seed=5, first_index=7)
    x, _, cond = first(cascade)
    assert tokens(cond) == [1, 1, 2, 2]
    assert torch.equal(x, randn((4, 3, 8, 8), Philox(5, range(7, 11)).of("base/start")) * 10.0)
    assert len(made.images) == 4
    assert {name: tuple(tensor.shape) for name, tensor in made.stages.items()} == {
        "base": (4, 3, 8, 8),
        "sr16": (4, 3, 16, 16),
        "sr32": (4, 3, 32, 32),
    }


def test_each_stage_enlarges_the_image_of_the_one_before(cascade: Cascade) -> None:
    made = cascade("a")
    for index, below in ((1, "base"), (2, "sr16")):
        assert torch.equal(first(cascade, index)[2].low_res, made.stages[below])


def test_one_number_is_the_base_stage_s_and_a_list_is_for_all() -> None:
    cascade = Cascade("plan", {}, [Stage(name, 8, Recorder(), BASE) for name in ("base", "sr")])

    def plan(**options: object) -> list[Sampling]:
        return cascade.plan(SamplingOptions(**options))

    assert plan() == [BASE, BASE]
    assert [s.num_inference_steps for s in plan(num_inference_steps=7)] == [7, 4]
    assert [s.num_inference_steps for s in plan(num_inference_steps=[7, 9])] == [7, 9]
    assert [s.guidance_scale for s in plan(guidance_scale=0.0)] == [0.0, 1.0]
    assert [s.paint_weight for s in plan(paint_weight=[0.5, 0.25])] == [0.5, 0.25]
    assert [s.guidance_interval for s in plan(guidance_interval=(1.0, 2.0))] == [(1.0, 2.0), None]
    assert [s.dynamic_threshold for s in plan(dynamic_threshold=0.9)] == [0.9, None]
    assert [s.sampler for s in plan(sampler="heun")] == ["heun", "heun"]
    with pytest.raises(ValueError, match="num_inference_steps has 3 values; give 1, or 2"):
        plan(num_inference_steps=[1, 2, 3])


def test_the_negative_prompt_and_the_style_image(cascade: Cascade) -> None:
    cascade("a", negative_prompt="bbb", guidance_scale=2.0, style=Style(gray(10, 255), 0.5))
    _, _, cond = first(cascade)
    assert tokens(cond) == [3, 1, 1], "negative, words, words and style"
    assert tokens(cond, "clip_image") == [0, 0, pytest.approx(1.0)]
    cascade("a", style=Style(gray(10, 0)))
    assert tokens(cascade.stages[0].denoiser.calls[-1][2], "clip_image") == [pytest.approx(-1.0)]
    with pytest.raises(ValueError, match="no encoder that reads images"):
        Cascade("blind", {"t5": Words()}, cascade.stages)("a", style=Style(gray(10, 0)))


@pytest.mark.parametrize(
    ("at", "base", "later"), [(0.75, [1, 1, 1, 2], 1), (0.5, [1, 1, 2, 2], 1), (0.25, [1, 2, 2, 2], 2)]
)
def test_the_later_stages_read_the_prompt_with_the_larger_share(
    cascade: Cascade, at: float, base: list[int], later: int
) -> None:
    cascade("a", switch=Switch("bb", at))
    assert [tokens(cond)[0] for _, _, cond in cascade.stages[0].denoiser.calls] == base
    for stage in cascade.stages[1:]:
        assert [tokens(cond)[0] for _, _, cond in stage.denoiser.calls] == [later] * 4


def test_an_edit_starts_every_stage_at_its_own_resolution(cascade: Cascade) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    cascade("a", edit=Edit(image, 0.25), seed=2)
    exact = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None] / 127.5 - 1
    for index, stage in enumerate(cascade.stages):
        x, sigma, _ = first(cascade, index)
        assert sigma.tolist() == [pytest.approx(0.1)]
        noise = randn((1, 3, stage.resolution, stage.resolution), Philox(2, [0]).of(f"{stage.name}/start"))
        side = 32 // stage.resolution
        wanted = torch.nn.functional.avg_pool2d(exact, side)
        torch.testing.assert_close(x - sigma.view(-1, 1, 1, 1) * noise, wanted, atol=1e-5, rtol=0)


def test_a_low_resolution_image_enters_the_stage_with_the_nearest_input(cascade: Cascade) -> None:
    for side, stages in ((8, ["sr16", "sr32"]), (11, ["sr16", "sr32"]), (13, ["sr32"]), (64, ["sr32"])):
        assert list(cascade("a", low_res=gray(side, 255)).stages) == stages
    assert list(cascade("a", low_res=gray(64, 255), first_stage="sr16").stages) == ["sr16", "sr32"]
    _, _, cond = cascade.stages[1].denoiser.calls[-1]
    assert torch.equal(cond.low_res, torch.ones(1, 3, 8, 8))


def test_words_are_weighted_and_painted_at_their_tokens(cascade: Cascade) -> None:
    mask = torch.zeros(256, 256)
    mask[:, :128] = 1
    regions = [Region("dd", mask), Region("a", 1 - mask, weight=0.5)]
    cascade("a (bb ccc:1.5) dd a", paint=regions, paint_weight=2.0)
    _, sigma, cond = first(cascade)
    assert cond.sources["t5"].weight.tolist() == [[1, 1.5, 1.5, 1, 1, 1, 1, 1, 1]]
    assert cond.paint.tokens["t5"].tolist() == [[[0, 0, 0, 1, 0, 0, 0, 0, 0], [0.5, 0, 0, 0, 0.5, 0, 0, 0, 0]]]
    assert torch.equal(cond.paint.areas[0], torch.stack([mask, 1 - mask]))
    torch.testing.assert_close(cond.paint.strength, 2 * torch.log(1 + sigma))
    assert all(call[2].paint is None for call in cascade.stages[1].denoiser.calls), "paint_weight is the base stage's"


def test_settings_and_request_are_json_and_leave_out_what_is_not_used(cascade: Cascade) -> None:
    options = SamplingOptions(seed=4, style=Style(gray(2, 9), 2.0), switch=Switch("b", 0.5), num_inference_steps=2)
    settings = cascade.generate("a", options).settings
    names = "model prompt num_images_per_prompt first_index seed negative_prompt dtype compile stages style switch"
    assert list(settings) == names.split()
    assert settings["style"]["image"]["size"] == [2, 2]
    assert len(settings["style"]["image"]["sha256"]) == 64
    assert settings["switch"] == {"prompt": "b", "at": 0.5}
    assert settings["stages"]["base"]["nfe"] == 2
    assert json.loads(json.dumps(settings))["seed"] == 4
    request = CascadeGenerator(cascade, dataclasses.replace(options, negative_prompt="c", style=None)).settings
    assert list(request)[:5] == ["model", "stages", "seed", "negative_prompt", "switch"]
    assert "nfe" not in request["stages"]["base"]
    made = CascadeGenerator(cascade, options, {"model_sha256": "x"}, 2).settings
    assert list(made)[-4:] == ["model_sha256", "guidance_scale", "nfe", "threads"]
    assert (made["guidance_scale"], made["nfe"], made["threads"]) == (1.0, 2 + 4 + 4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be from 1 to 100000"),
        ({"negative_prompt": " "}, "prompt is empty"),
        ({"num_inference_steps": [4, 0]}, "num_inference_steps must be from 1 to 10000"),
        ({"num_inference_steps": []}, "num_inference_steps is an empty list"),
        ({"guidance_scale": ()}, "guidance_scale is an empty list"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be at least 0"),
        ({"paint_weight": float("inf")}, "paint_weight must be at least 0"),
        ({"guidance_interval": (2.0, 1.0)}, "guidance_interval must be two rising"),
        ({"dynamic_threshold": 0.0}, "dynamic_threshold must be above 0"),
    ],
)
def test_a_wrong_option_is_refused_where_it_enters(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)
