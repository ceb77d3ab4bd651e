"""Weights in autocast's dtype, cast together; autocast launches two kernels a step for the cast of every single one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

GROUPED = {"cuda"}
"""Devices on which weights are cast together; on a CPU, where nothing is launched, it takes longer."""


def call(module: nn.Module, weights: dict[str, Tensor], *arguments: Any) -> Any:
    """`module(*arguments)` with these of its weights replaced."""
    return functional_call(module, weights, arguments) if weights else module(*arguments)


def autocast_weights(module: nn.Module, but: Sequence[str] = ()) -> dict[str, Tensor]:
    """The float32 weights of a module's convolutions and linear layers in autocast's dtype, by name.

    Empty without autocast, and on a CPU. Those that fsdp has sharded are left out: it gathers them in the call. So are
    layers whose names begin with one of `but`.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    return _cast_layers({name: layer for name, layer in layers.items() if not name.startswith(tuple(but))})


def projections(layers: Sequence[nn.Module], x: Float[Tensor, "*b width"]) -> Sequence[Tensor | None]:
    """What linear layers make of one input, by one matmul with the weights of all of them, cast together.

    None for each, which then has to run on its own, where `autocast_weights` casts nothing (one matmul saves launches
    only), where fsdp has sharded a weight, and with adapters.
    """
    weights = _cast_layers({str(i): layer for i, layer in enumerate(layers) if type(layer) is nn.Linear})
    sides = [[weights.get(f"{i}.{side}") for i in range(len(layers))] for side in ("weight", "bias")]
    known = [[weight for weight in side if weight is not None] for side in sides]
    if not layers or any(len(side) < len(layers) for side in known):
        return [None] * len(layers)
    return F.linear(x, *(torch.cat(side) for side in known)).split([len(bias) for bias in known[1]], -1)


def _cast_layers(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    device = next((weight.device.type for layer in layers.values() for weight in layer.parameters()), "")
    if device not in GROUPED or not torch.is_autocast_enabled(device):
        return {}
    weights = {
        f"{name}.{kind}": weight
        for name, layer in layers.items()
        for kind, weight in layer._parameters.items()
        if isinstance(weight, nn.Parameter) and weight.dtype == torch.float32 and not _sharded(weight)
    }
    dtype = torch.get_autocast_dtype(device)
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
    frozen = {name: weight for name, weight in weights.items() if not weight.requires_grad}
    cast = dict(zip(frozen, _cast(list(frozen.values()), dtype), strict=True)) if frozen else {}
    return cast | dict(zip(trained, _Cast.apply(dtype, *trained.values()), strict=True)) if trained else cast


def _sharded(weight: Tensor) -> bool:
    """Whether fsdp has only a part of a weight here: a DTensor, or a piece of a flat parameter."""
    return hasattr(weight, "to_local") or hasattr(weight, "_fsdp_flattened")


def _cast(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies of tensors of one dtype in another."""
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if torch.compiler.is_compiling():  # torch 2.11 compiles a `Function` that writes in place to gradients of zero
        written: list[Tensor] = torch.ops.aten._foreach_copy(copies, tensors)
        return written
    torch._foreach_copy_(copies, tensors)
    return copies


class _Cast(torch.autograd.Function):
    """`_cast` of weights; their gradients come back in float32 together too."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # a weight without a gradient gets none
        return tuple(_cast(list(weights), dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [gradient for gradient in gradients if gradient is not None]
        cast = iter(_cast(given, torch.float32) if given else [])
        return None, *(None if gradient is None else next(cast) for gradient in gradients)
