"""A stage, by exact values: where sampling starts, what the network is conditioned on, how wrappers are stacked."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ediffi.diffusion.editing import EditSource
from ediffi.diffusion.experts import AutocastDenoiser, Expert, ExpertTree
from ediffi.diffusion.noise import Interval, LogNormal
from ediffi.pipeline.stage import Sampling, Stage, Steering
from ediffi.registry.denoisers.precondition import upsample
from ediffi.registry.random import Philox, randn
from ediffi.registry.types import Conditioning, Embedding, Paint, at_level

EULER = Sampling("euler", num_inference_steps=4, sigma_min=0.1, sigma_max=10.0)


class Recorder(nn.Module):
    """Answers with a constant, or with the sum of the tokens, and keeps its arguments."""

    def __init__(self, constant: float | None = 0.5) -> None:
        super().__init__()
        self.weight, self.constant = nn.Parameter(torch.zeros(())), constant
        self.calls: list[tuple[Tensor, Tensor, Conditioning]] = []

    def forward(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        self.calls.append((x.clone(), sigma.clone(), cond))
        if self.constant is not None:
            return torch.full_like(x, self.constant)
        total = torch.stack([e.tokens.sum((1, 2)) for e in cond.sources.values()]).sum(0)
        return torch.zeros_like(x) + total.view(-1, 1, 1, 1)


def words(value: float = 1.0, batch: int = 2) -> Conditioning:
    return Conditioning({"t5": Embedding(torch.full((batch, 1, 1), value), torch.ones(batch, 1, dtype=torch.bool))})


RANDOMNESS = Philox(3, range(2))


def images(side: int = 8) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def start(stage: Stage, **options: object) -> tuple[Tensor, Tensor, Conditioning, Tensor]:
    """The first network call of a sampling, and its result."""
    assert isinstance(stage.denoiser, Recorder)
    made = stage(words(), RANDOMNESS, **options)
    return *stage.denoiser.calls[0], made


def test_the_base_stage_starts_at_sigma_max_times_noise() -> None:
    x, sigma, cond, made = start(Stage("base", 8, Recorder(), EULER))
    assert torch.equal(x, randn((2, 3, 8, 8), RANDOMNESS.of("base").of("start")) * 10.0)
    assert sigma.tolist() == [10.0, 10.0]
    assert cond.low_res is None
    torch.testing.assert_close(made, torch.full_like(made, 0.5))


def test_the_result_is_clipped() -> None:
    for constant, wanted in ((3.0, 1.0), (-3.0, -1.0)):
        made = start(Stage("base", 8, Recorder(constant), EULER))[-1]
        assert torch.equal(made, torch.full_like(made, wanted))


def test_super_resolution_is_conditioned_on_the_noised_image_and_starts_around_the_enlarged_one() -> None:
    low_res, randomness = images(4), RANDOMNESS.of("sr")
    noise = randn(low_res.shape, randomness.of("low_res"))
    x, _, cond, _ = start(Stage("sr", 8, Recorder(), EULER, aug_level=0.2), low_res=low_res)
    torch.testing.assert_close(cond.low_res, low_res + 0.2 * noise)
    assert cond.aug_level.tolist() == [pytest.approx(0.2)] * 2
    torch.testing.assert_close(x, upsample(low_res, (8, 8)) + 10.0 * randn((2, 3, 8, 8), randomness.of("start")))


@pytest.mark.parametrize(("strength", "steps"), [(0.75, 3), (0.5, 2), (0.3, 1)])
def test_image_to_image_starts_at_the_image_plus_noise_of_its_first_level(strength: float, steps: int) -> None:
    stage, source = Stage("base", 8, Recorder(), EULER), EditSource(images(), strength)
    x, sigma, _, _ = start(stage, source=source)
    level = EULER.sigmas()[4 - steps]
    assert torch.equal(sigma, level.expand(2))
    torch.testing.assert_close(x, source.images + level * randn((2, 3, 8, 8), RANDOMNESS.of("base").of("start")))
    assert len(stage.denoiser.calls) == steps


def test_an_edit_of_super_resolution_starts_at_its_own_image_not_at_the_enlarged_one() -> None:
    stage, source = Stage("sr", 8, Recorder(), EULER, aug_level=0.2), EditSource(images(), 0.5)
    x, _, _, _ = start(stage, source=source, low_res=images(4))
    torch.testing.assert_close(x, source.images + EULER.sigmas()[2] * randn((2, 3, 8, 8), RANDOMNESS.of("sr/start")))


def test_strength_0_returns_the_image_and_strength_1_starts_from_noise() -> None:
    idle = Stage("base", 8, Recorder(), EULER)
    assert torch.equal(idle(words(), RANDOMNESS, source=EditSource(images(), 0.0)), images())
    assert idle.denoiser.calls == []
    x = start(Stage("base", 8, Recorder(), EULER), source=EditSource(images(), 1.0))[0]
    assert torch.equal(x, randn((2, 3, 8, 8), RANDOMNESS.of("base").of("start")) * 10.0)


def test_a_mask_keeps_the_image_where_it_is_0() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    made = start(Stage("base", 8, Recorder(), EULER), source=EditSource(images(), 1.0, mask))[-1]
    torch.testing.assert_close(made[..., :4], torch.full((2, 3, 8, 4), 0.5))
    torch.testing.assert_close(made[..., 4:], images()[..., 4:])


def test_guidance_and_the_negative_prompt_reach_the_denoiser() -> None:
    guided = dataclasses.replace(EULER, guidance_scale=0.25)
    stage = Stage("base", 8, Recorder(None), guided)
    assert start(stage)[-1].mean() == pytest.approx(0.25)
    negative = Steering(negative=words(-0.5))
    assert start(stage, steering=negative)[-1].mean() == pytest.approx(-0.5 + 0.25 * 1.5)
    assert start(stage, sampling=EULER)[-1].mean() == pytest.approx(1.0), "instead of the stage's own"
    above = dataclasses.replace(guided, guidance_interval=(10.0, 20.0))
    assert start(stage, sampling=above)[-1].mean() == pytest.approx(1.0), "no step is in the interval"


def test_the_second_prompt_takes_over_after_its_share_of_the_steps() -> None:
    stage = Stage("base", 8, Recorder(None), EULER)
    stage(words(), RANDOMNESS, steering=Steering(after=words(0.25), switch_at=0.75))
    read = [float(cond.sources["t5"].tokens[0]) for _, _, cond in stage.denoiser.calls]
    assert read == [1.0, 1.0, 1.0, 0.25]


@pytest.mark.parametrize(("sampler", "arguments"), [("kutta3", {}), ("heun", {"s_churn": 4.0}), ("dpmpp_2m", {})])
@pytest.mark.parametrize("strength", [1.0, 0.75, 0.25])
def test_every_evaluation_of_a_step_reads_the_prompt_of_the_step(
    sampler: str, arguments: dict[str, float], strength: float
) -> None:
    """The last evaluation of a step has the noise level of the next one; churn adds noise before a step."""
    sampling = dataclasses.replace(EULER, sampler=sampler, arguments=arguments)
    stage, steps = Stage("base", 8, Recorder(None), sampling), [0]
    read: list[tuple[int, float]] = []
    stage.denoiser.register_forward_pre_hook(
        lambda _, args: read.append((steps[-1], float(args[2].sources["t5"].tokens[0])))
    )
    stage(
        words(),
        RANDOMNESS,
        source=EditSource(images(), strength),
        steering=Steering(after=words(0.25), switch_at=0.5),
        callback=lambda state: steps.append(state.step + 1),
    )
    skipped = 4 - round(4 * strength)
    assert read == [(step, 1.0 if step + skipped < 2 else 0.25) for step, _ in read]
    assert {step + skipped for step, _ in read} == set(range(skipped, 4))


def test_thresholding_is_around_guidance() -> None:
    strong = dataclasses.replace(EULER, guidance_scale=4.0, dynamic_threshold=1.0)
    stage = Stage("base", 8, Recorder(None), strong)
    assert start(stage)[-1].mean() == pytest.approx(1.0)
    callback: list[float] = []
    stage(words(), RANDOMNESS, callback=lambda state: callback.append(float(state.denoised.max())))
    assert callback == [pytest.approx(1.0)] * 4, "4·1 divided by its own maximum at every step"


def test_paint_is_scaled_by_its_weight_and_the_noise_level() -> None:
    paint = Paint(torch.ones(2, 1, 8, 8), {"t5": torch.ones(2, 1, 1)}, torch.ones(2))
    stage = Stage("base", 8, Recorder(), dataclasses.replace(EULER, paint_weight=0.3))
    stage(dataclasses.replace(words(), paint=paint), Philox(3, range(2)))
    for _, sigma, cond in stage.denoiser.calls:
        torch.testing.assert_close(cond.paint.strength, 0.3 * torch.log(1 + sigma))


@pytest.mark.parametrize(
    ("stage", "options"),
    [(Stage("base", 8, Recorder(), EULER), {"low_res": images(4)}), (Stage("sr", 8, Recorder(), EULER, 0.1), {})],
)
def test_low_res_is_for_super_resolution_only(stage: Stage, options: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="low_res"):
        stage(words(), RANDOMNESS, **options)


class Reads(TorchDispatchMode):
    """Counts what has to wait for the device: values read back to the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name() in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::is_nonzero",
            "aten::_unique2",
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", ["euler", "heun", "kutta3", "dpmpp_2m", "deis", "exp_abm"])
def test_nothing_is_read_from_the_device_between_network_calls(sampler: str) -> None:
    reads: list[int] = []

    class Watched(Recorder):
        def forward(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
            reads.append(mode.count)
            return super().forward(x, sigma, cond)

    low, high = Watched(0.25), Watched()
    halves = [Expert(Interval(1, 0)), Expert(Interval(1, 1))]
    tree = ExpertTree(LogNormal(), halves, nn.ModuleList([low, high]))
    steered = Sampling(
        sampler, num_inference_steps=6, sigma_min=0.1, sigma_max=10.0, guidance_scale=2.0, guidance_interval=(0.3, 5.0),
        dynamic_threshold=0.9, paint_weight=0.5,
    )  # fmt: skip
    paint = Paint(torch.ones(2, 1, 8, 8), {"t5": torch.ones(2, 1, 1)}, torch.ones(2))
    source = EditSource(images(), 1.0, torch.ones(2, 1, 8, 8))
    stage = Stage("base", 8, AutocastDenoiser(tree, torch.bfloat16), steered)
    with Reads() as mode:
        stage(
            dataclasses.replace(words(), paint=paint),
            RANDOMNESS,
            source=source,
            steering=Steering(words(3.0), after=words(2.0), switch_at=0.5),
        )
    assert low.calls
    assert high.calls
    assert len(reads) == steered.nfe
    assert reads[0] == reads[-1], f"{reads[-1] - reads[0]} values were read in {len(reads)} calls"


def test_a_level_known_on_the_host_gives_the_same_bits_as_one_read_from_the_device() -> None:
    sampling = dataclasses.replace(EULER, sampler="heun", guidance_scale=2.0, guidance_interval=(0.3, 5.0))
    halves = [Expert(Interval(1, 0)), Expert(Interval(1, 1))]
    networks = nn.ModuleList([Recorder(None), Recorder(0.5)])
    stage = Stage("base", 8, ExpertTree(LogNormal(), halves, networks), sampling)
    denoiser = stage._steered(sampling, Steering(), None)
    levels = [*sampling.sigmas()[:-1].tolist(), 0.3, 5.0, float(np.float32(0.3)), *stage.denoiser._levels]
    for level in levels:
        x, sigma, cond = images(), torch.full((2,), level), words()
        level = float(sigma[0])
        assert torch.equal(denoiser(x, sigma, cond), at_level(denoiser, level)(x, sigma, cond)), level
