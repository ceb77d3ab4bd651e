"""Attention that is painted, weighted or looked at, against plain formulas."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ediffi.registry import denoisers
from ediffi.registry.denoisers import attention
from ediffi.registry.denoisers.attention import Context, CrossAttention, PaintedKeys, attend, attend_painted
from ediffi.registry.types import Conditioning, Embedding, Paint

B, HEADS, SIDE, KEYS, WIDTH = 3, 2, 4, 7, 8


class Operators(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, PaintedKeys]:
    q, k, v = (torch.randn(B, HEADS, count, WIDTH) for count in (SIDE * SIDE, KEYS, KEYS))
    bias = torch.zeros(B, 1, 1, KEYS)
    bias[1, ..., -2:] = -torch.inf
    bias[2, ..., 3] = np.log(1.5)
    keys = torch.zeros(B, 2, KEYS)
    keys[:, 0, 1:3], keys[:, 1, 2:5] = 1.0, 0.5
    return q, k, v, bias, PaintedKeys(torch.rand(B, 2, 16, 16), keys, torch.tensor([0.7, 2.0, 0.3]))


def formula(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, paint: PaintedKeys) -> np.ndarray:
    """softmax((QKᵀ + w·A)/√d + bias)·V in float64, one sample and head at a time, with areas averaged by hand."""
    out = np.zeros(q.shape)
    for b in range(B):
        a = np.zeros((SIDE * SIDE, KEYS))
        areas = torch.nn.functional.interpolate(paint.areas[b, None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]
        for area, keys in zip(areas.double().numpy(), paint.keys[b].double().numpy(), strict=True):
            a = np.maximum(a, area.reshape(-1, 1) * keys)
        real = np.isfinite(bias[b, 0, 0].numpy())
        for h in range(HEADS):
            scores = q[b, h].double().numpy() @ k[b, h].double().numpy().T
            painted = scores + float(paint.strength[b]) * scores[:, real].max() * a
            logits = painted / np.sqrt(WIDTH) + bias[b, 0, 0].double().numpy()
            weights = np.exp(logits - logits.max(1, keepdims=True))
            out[b, h] = weights / weights.sum(1, keepdims=True) @ v[b, h].double().numpy()
    return out


def test_paint_is_the_paper_s_formula() -> None:
    q, k, v, bias, paint = inputs()
    painted = attend_painted(q, k, v, bias, paint, (SIDE, SIDE)).numpy()
    np.testing.assert_allclose(painted, formula(q, k, v, bias, paint), atol=2e-6, rtol=1e-5)
    assert not np.allclose(painted, attend(q, k, v, bias).numpy(), atol=1e-2)


def test_the_resolution_of_an_area_does_not_change_what_is_painted() -> None:
    paint = inputs()[-1]
    coarse = torch.zeros(B, 2, 8, 8)
    coarse[..., :4, :4] = 1
    fine = coarse.repeat_interleave(4, -1).repeat_interleave(4, -2)
    one, two = (PaintedKeys(areas, paint.keys, paint.strength) for areas in (coarse, fine))
    a, b = one.at(SIDE, SIDE)[0], two.at(SIDE, SIDE)[0]
    assert a.max() == b.max() == 1
    torch.testing.assert_close(a, b, atol=0.13, rtol=0)


def test_a_sample_without_paint_is_untouched_and_a_painted_one_knows_no_neighbours() -> None:
    q, k, v, bias, paint = inputs()
    some = PaintedKeys(paint.areas, paint.keys, torch.tensor([0.0, 2.0, 0.0]))
    out = attend_painted(q, k, v, bias, some, (SIDE, SIDE))
    torch.testing.assert_close(out[[0, 2]], attend(q, k, v, bias)[[0, 2]])
    for row in range(B):
        alone = [tensor[row : row + 1] for tensor in (q, k, v, bias)]
        assert torch.equal(out[row : row + 1], attend_painted(*alone, some[row : row + 1], (SIDE, SIDE)))


@pytest.mark.parametrize("limit", [1, SIDE**2 * KEYS, 3 * SIDE**2 * KEYS, 4 * SIDE**2 * KEYS])
def test_painted_scores_are_bounded_and_the_bound_changes_no_bit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    q, k, v, bias, paint = inputs()
    whole, largest = attend_painted(q, k, v, bias, paint, (SIDE, SIDE)), []
    monkeypatch.setattr(attention, "PAINTED_SCORES", limit)
    original = attention._attend_painted

    def counted(q: Tensor, k: Tensor, *rest: Tensor) -> Tensor:
        largest.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2])
        return original(q, k, *rest)

    monkeypatch.setattr(attention, "_attend_painted", counted)
    assert torch.equal(attend_painted(q, k, v, bias, paint, (SIDE, SIDE)), whole)
    assert max(largest) <= max(limit, SIDE**2 * KEYS)
    assert sum(largest) == B * HEADS * SIDE**2 * KEYS


def test_paint_reads_nothing_back_and_launches_as_much_for_eight_images_as_for_one() -> None:
    def operators(batch: int) -> list[str]:
        q, k, v, bias, paint = (part[[0] * batch] for part in inputs())
        with Operators() as seen:
            attend_painted(q, k, v, bias, paint, (SIDE, SIDE))
        return seen.names

    assert operators(1) == operators(8)
    assert not {"aten::_local_scalar_dense", "aten::nonzero"} & set(operators(8))


def test_padding_does_not_set_the_scale() -> None:
    q, k, v, bias, paint = inputs()
    loud = k.clone()
    loud[1, :, -2:] = 1e3
    out = attend_painted(q, loud, v, bias, paint, (SIDE, SIDE))
    assert torch.equal(out[1], attend_painted(q, k, v, bias, paint, (SIDE, SIDE))[1])


def test_probabilities_are_what_the_layer_attends_with() -> None:
    layer = CrossAttention(16, 12, head_channels=8, norm_groups=4)
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(B, 16, SIDE, SIDE)
    _, _, _, bias, paint = inputs()
    tokens = torch.randn(B, KEYS, 12)
    for context in (Context(tokens, bias), Context(tokens, bias, paint)):
        weights = layer.probabilities(x, context)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        _, v = layer.to_kv(tokens).unflatten(-1, (2, -1, 8)).permute(2, 0, 3, 1, 4)
        gathered = (weights @ v).transpose(1, 2).flatten(2).transpose(1, 2).unflatten(-1, (SIDE, SIDE))
        torch.testing.assert_close(layer(x, context), x + layer.out(gathered), atol=1e-5, rtol=1e-5)


def conditioning(weight: Tensor | None = None, paint: Paint | None = None, length: int = 5) -> Conditioning:
    torch.manual_seed(3)
    mask = torch.ones(2, length, dtype=torch.bool)
    t5 = Embedding(torch.randn(2, length, 128), mask, None, weight)
    return Conditioning(
        {"t5": t5, "clip_text": Embedding(torch.randn(2, 4, 128), mask[:, :4], torch.randn(2, 128))}, paint=paint
    )


@pytest.fixture(params=[32, None])
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    """With tokens in one width, and in the width of each source."""
    network = denoisers.create("unet_toybox", channels=32, context_width=request.param, feed_forward=2)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval().requires_grad_(False)


def test_a_weight_of_one_changes_no_bit_and_two_is_the_token_twice(network: torch.nn.Module) -> None:
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([1.0, 3.0])
    plain = network(x, sigma, conditioning())
    assert torch.equal(plain, network(x, sigma, conditioning(torch.ones(2, 5))))
    weight = torch.ones(2, 5)
    weight[:, 1] = 2
    twice = conditioning()
    t5 = twice.sources["t5"]
    longer = Embedding(torch.cat([t5.tokens, t5.tokens[:, 1:2]], 1), torch.ones(2, 6, dtype=torch.bool))
    doubled = network(x, sigma, Conditioning({**twice.sources, "t5": longer}))
    torch.testing.assert_close(network(x, sigma, conditioning(weight)), doubled, atol=1e-5, rtol=1e-4)
    weight[:, 1] = 0
    without = Embedding(t5.tokens[:, [0, 2, 3, 4]], torch.ones(2, 4, dtype=torch.bool))
    gone = network(x, sigma, Conditioning({**twice.sources, "t5": without}))
    torch.testing.assert_close(network(x, sigma, conditioning(weight)), gone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("paint", [None, Paint(torch.rand(2, 1, 8, 8), {"t5": torch.ones(2, 1, 5)}, torch.ones(2))])
def test_where_every_token_is_known_to_be_real_no_bias_is_made_and_no_bit_differs(
    network: torch.nn.Module, paint: Paint | None, dtype: torch.dtype
) -> None:
    x, sigma, cond = torch.randn(2, 3, 16, 16), torch.tensor([1.0, 3.0]), conditioning(paint=paint)
    known = replace(cond, sources={name: replace(part, all_tokens=True) for name, part in cond.sources.items()})
    results, logarithms = [], []
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for each in (cond, known):
            with Operators() as seen:
                results.append(network(x, sigma, each))
            logarithms.append(seen.names.count("aten::log"))
    assert torch.equal(*results)
    assert logarithms[0] - logarithms[1] == len(cond.sources)  # of the weights


def test_paint_reaches_the_image_and_strength_zero_does_not(network: torch.nn.Module) -> None:
    areas, tokens = torch.zeros(2, 1, 64, 64), torch.zeros(2, 1, 5)
    areas[..., :32], tokens[..., 2] = 1, 1
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([1.0, 3.0])
    plain = network(x, sigma, conditioning())

    def painted(strength: list[float]) -> Tensor:
        return network(x, sigma, conditioning(paint=Paint(areas, {"t5": tokens}, torch.tensor(strength))))

    torch.testing.assert_close(painted([0.0, 0.0]), plain)
    half = painted([0.0, 5.0])
    torch.testing.assert_close(half[0], plain[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(half[1], plain[1], atol=1e-3)
    torch.testing.assert_close(half[1], painted([5.0, 5.0])[1], atol=1e-5, rtol=1e-4)


def test_joining_keeps_who_is_painted_and_weighted() -> None:
    paint = Paint(torch.rand(2, 1, 8, 8), {"t5": torch.rand(2, 1, 5)}, torch.ones(2))
    both = Conditioning.cat([conditioning(paint=paint), conditioning(torch.full((2, 7), 2.0), length=7)])
    assert both.paint is not None
    assert both.paint.strength.tolist() == [1, 1, 0, 0]
    assert both.paint.tokens["t5"].shape == (4, 1, 7)
    weight = both.sources["t5"].weight
    assert weight is not None
    assert weight[:, 0].tolist() == [1, 1, 2, 2]
    assert both.null().paint is None
    one = both[1:2].paint
    assert one is not None
    assert torch.equal(one.areas, paint.areas[1:2])
