"""Denoisers that steer: scales, styles, intervals, thresholds and switches, on denoisers with known answers."""

import pytest
import torch
from torch import Tensor

from ediffi.diffusion.guidance import ClassifierFreeGuidance, DynamicThresholding, PromptSwitching
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.stage import Sampling
from ediffi.registry.types import Conditioning, Embedding, SamplerState

X = torch.zeros(3, 3, 4, 4)
SIGMA = torch.tensor([0.5, 1.0, 2.0])


def source(value: float, batch: int = 3) -> Embedding:
    return Embedding(torch.full((batch, 1, 1), value), torch.ones(batch, 1, dtype=torch.bool))


WORDS = Conditioning({"t5": source(1.0)})
BOTH = Conditioning({"t5": source(1.0), "clip_image": source(10.0)})


class Sum:
    """Answers with the sum of all tokens, and remembers how many samples it was asked for."""

    def __init__(self) -> None:
        self.samples: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        self.samples.append(len(x))
        total = torch.stack([e.tokens.sum((1, 2)) for e in cond.sources.values()]).sum(0)
        return x + total.view(-1, 1, 1, 1)


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 2.0])
def test_style_has_a_scale_of_its_own(w: float, s: float) -> None:
    denoiser = Sum()
    guided = ClassifierFreeGuidance(denoiser, w, style_scale=s)(X, SIGMA, BOTH)
    torch.testing.assert_close(guided, torch.full_like(X, w * 1.0 + w * s * 10.0))
    terms = 1 if w == 0 else (w != 1) + (1 if s in (0, 1) else 2)
    assert denoiser.samples == [3 * terms]


def test_without_a_picture_the_style_scale_says_nothing() -> None:
    plain, scaled = Sum(), Sum()
    assert torch.equal(
        ClassifierFreeGuidance(plain, 3.0)(X, SIGMA, WORDS),
        ClassifierFreeGuidance(scaled, 3.0, style_scale=0.3)(X, SIGMA, WORDS),
    )
    assert plain.samples == scaled.samples == [6]


@pytest.mark.parametrize(("w", "wanted"), [(0.0, 2.0), (1.0, 11.0), (3.0, 29.0)])
def test_the_negative_prompt_does_not_keep_the_style_image(w: float, wanted: float) -> None:
    negative = Conditioning({"t5": source(2.0)})
    guided = ClassifierFreeGuidance(Sum(), w, negative)(X, SIGMA, BOTH)
    assert torch.equal(guided, torch.full_like(X, wanted)), "2 + w (11 - 2)"


def test_the_negative_prompt_keeps_the_low_resolution_image_and_its_noise() -> None:
    asked: list[Conditioning] = []

    def denoiser(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        asked.append(cond)
        return x

    low_res, level = torch.rand(3, 3, 2, 2), torch.tensor([0.1, 0.2, 0.3])
    cond = WORDS.with_low_res(low_res, level)
    ClassifierFreeGuidance(denoiser, 2.0, Conditioning({"t5": source(2.0)}))(X, SIGMA, cond)
    PromptSwitching(denoiser, Conditioning({"t5": source(2.0)}), 0)(X, SIGMA, cond)
    assert torch.equal(asked[0].low_res, torch.cat([low_res, low_res]))
    assert torch.equal(asked[0].aug_level, torch.cat([level, level]))
    assert torch.equal(asked[1].low_res, low_res)
    assert torch.equal(asked[1].aug_level, level)


def test_guidance_stays_in_its_interval() -> None:
    guided = ClassifierFreeGuidance(Sum(), 3.0, interval=(0.5, 1.0))(X, SIGMA, WORDS)
    assert guided[:, 0, 0, 0].tolist() == [1.0, 3.0, 1.0]
    idle = Sum()
    ClassifierFreeGuidance(idle, 3.0, interval=(5.0, 9.0))(X, SIGMA, WORDS)
    assert idle.samples == [3]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("guidance_scale", -1.0),
        ("guidance_scale", float("nan")),
        ("guidance_interval", (1.0, 1.0)),
        ("guidance_interval", (2.0, 1.0)),
        ("guidance_interval", (-1.0, 1.0)),
        ("dynamic_threshold", 0.0),
        ("dynamic_threshold", 1.5),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: str, value: object) -> None:
    for settings in (Sampling, SamplingOptions):
        with pytest.raises(ValueError, match=f"{setting} must be"):
            settings(**{setting: value})


def test_thresholding_keeps_each_picture_in_range_by_itself() -> None:
    pictures = torch.stack([torch.linspace(-0.5, 0.5, 48), torch.linspace(-4, 4, 48)]).view(2, 3, 4, 4)

    def denoiser(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return pictures

    kept = DynamicThresholding(denoiser, 0.9)(pictures, SIGMA[:2], WORDS)
    assert torch.equal(kept[0], pictures[0])
    s = torch.quantile(pictures[1].abs(), 0.9)
    torch.testing.assert_close(kept[1], pictures[1].clamp(-s, s) / s)
    assert kept.abs().max() == 1


def test_the_other_prompt_takes_over_at_its_step() -> None:
    seen: list[SamplerState] = []
    switching = PromptSwitching(Sum(), Conditioning({"t5": source(7.0)}), 2)
    callback = switching.counting(seen.append)
    answers = []
    for step in range(4):
        one, two = switching(X, SIGMA, WORDS), switching.at(1.0)(X, SIGMA, WORDS)
        assert torch.equal(one, two)
        answers.append(float(one.mean()))
        callback(SamplerState(step, 4, 1.0, X, X))
    assert answers == [1, 1, 7, 7]
    assert [state.step for state in seen] == [0, 1, 2, 3]
