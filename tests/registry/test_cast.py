"""Weights that are cast together give what autocast gives, and the same gradients."""

import pytest
import torch

from ediffi.registry import denoisers
from ediffi.registry.denoisers import attention, cast, layers
from ediffi.registry.denoisers.cast import autocast_weights, projections
from ediffi.registry.types import Conditioning, Embedding


def gradients(
    width: int | None, checkpointing: bool, frozen: bool = False, autocast: bool = True
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    denoiser = denoisers.create("unet_toybox", channels=32, context_width=width, gradient_checkpointing=checkpointing)
    for name, parameter in denoiser.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
        parameter.requires_grad_(not (frozen and "conv1" in name))
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 3.0])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    sources = {name: Embedding(torch.randn(2, 3, 128), mask, torch.randn(2, 128)) for name in ("t5", "clip_text")}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = denoiser(x, sigma, Conditioning(sources))
    out.square().mean().backward()
    return {"out": out.detach()} | {n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("width", [32, None])
def test_weights_cast_together_change_no_bit(
    width: int | None, checkpointing: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the gradient of the embedding does: one matmul sums that of all blocks, in float32."""
    alone, exact = gradients(width, checkpointing, frozen), gradients(width, checkpointing, frozen, autocast=False)
    monkeypatch.setattr(cast, "GROUPED", {"cpu"})
    matmuls = attention.keys_values
    known: list[object] = []
    monkeypatch.setattr(layers, "keys_values", lambda *args: known.extend(matmuls(*args)) or matmuls(*args))
    together = gradients(width, checkpointing, frozen)
    assert [one is not None for one in known] == ([] if checkpointing else [True] * 4)
    assert list(together) == list(alone)
    others = {name for name in alone if not torch.equal(together[name], alone[name])}
    assert {name.split(".")[1] for name in others} == {"embedding"}
    for name in others:
        assert (together[name] - exact[name]).norm() <= 1.1 * (alone[name] - exact[name]).norm(), name


@pytest.mark.parametrize("adapter", ["weight", "layer"])
def test_layers_that_cannot_be_cast_together_run_on_their_own(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast, "GROUPED", {"cpu"})
    both, x = [torch.nn.Linear(8, 4), torch.nn.Linear(8, 6)], torch.randn(3, 8)
    assert list(projections(both, x)) == [None, None]
    with torch.autocast("cpu", torch.bfloat16):
        for one, layer in zip(projections(both, x), both, strict=True):
            torch.testing.assert_close(one, layer(x))
        if adapter == "weight":
            both[1].to(torch.bfloat16)
        assert list(projections(both if adapter == "weight" else [both[0], torch.nn.Identity()], x)) == [None] * 2


def test_only_what_autocast_would_cast_is_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast, "GROUPED", {"cpu"})
    block = denoisers.create("unet_toybox").network.down[0]
    assert autocast_weights(block) == {}
    with torch.autocast("cpu", torch.bfloat16):
        weights = autocast_weights(block)
        assert all(weight.dtype == torch.bfloat16 for weight in weights.values())
        assert {name.rpartition(".")[0] for name in weights} == {
            name for name, layer in block.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        }
        assert autocast_weights(block.bfloat16()) == {}


def test_a_1x1_convolution_is_the_matmul_that_cuda_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Result and gradients, for both memory layouts of the input and of the weight."""
    results = []
    for device in (set(), {"cpu"}):
        monkeypatch.setattr(attention, "MATMULS", device)
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            layer = attention.Pointwise(6, 4).to(memory_format=layout)
            x = torch.randn(2, 6, 3, 5).to(memory_format=layout).requires_grad_()
            out = layer(x)
            (out * torch.randn(out.shape)).sum().backward()
            results.append([out.detach(), x.grad, layer.weight.grad, layer.bias.grad])
            assert not device or out.is_contiguous(memory_format=torch.channels_last)
    for other in results[1:]:
        for tensor, first in zip(other, results[0], strict=True):
            torch.testing.assert_close(tensor, first)
