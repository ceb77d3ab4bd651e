"""Weights that are cast together give what autocast gives, and the same gradients."""

import pytest
import torch

from ediffi.registry import denoisers
from ediffi.registry.denoisers import attention, cast
from ediffi.registry.denoisers.cast import autocast_weights
from ediffi.registry.types import Conditioning


def gradients(checkpointing: bool, frozen: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    denoiser = denoisers.create("unet_toybox", channels=32, context_width=32, gradient_checkpointing=checkpointing)
    for name, parameter in denoiser.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
        parameter.requires_grad_(not (frozen and "conv1" in name))
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 3.0])
    with torch.autocast("cpu", torch.bfloat16):
        out = denoiser(x, sigma, Conditioning())
    out.square().mean().backward()
    return [out.detach(), *(p.grad for p in denoiser.parameters() if p.grad is not None)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_cast_together_change_no_bit(
    checkpointing: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = gradients(checkpointing, frozen)
    monkeypatch.setattr(cast, "GROUPED", {"cpu"})
    together = gradients(checkpointing, frozen)
    assert len(together) == len(alone)
    assert all(map(torch.equal, together, alone))


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
