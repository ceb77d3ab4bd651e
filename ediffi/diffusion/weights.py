"""The weights of a network: none while it is built, then those of a safetensors file."""

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ediffi.io.files import CheckedFile

MAPPED = 1 << 23
"""Bytes that are read from one mapping of a file."""
FLOATS = ("F32", "BF16", "F16", "F64")
LARGEST = 1e6
"""A weight of a trained network is far below; 1e30 would paint noise without an error."""
Extremes = tuple[Tensor, Tensor]


class _Unfilled(nn.Parameter):
    """A parameter on the meta device; `torch.nn.init`, slower there than for real numbers, leaves it alone."""

    def _leave(self, *_: Any, **__: Any) -> Tensor:
        return self

    uniform_ = normal_ = fill_ = zero_ = _leave


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules in this block whose parameters are on the meta device, until `load_weights` makes them.

    So a network costs neither the memory nor the random numbers of weights that a file replaces. Buffers and other
    constants are computed as always, which they are not under `torch.device("meta")`.
    """
    builder = threading.get_ident()

    def to_meta(_: nn.Module, __: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != builder:  # the hook is of all threads
            return None
        return _Unfilled(torch.empty_like(parameter, device="meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]  # annotated as None
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def load_weights(network: nn.Module, path: Path, device: str | torch.device = "cpu") -> None:
    """Copy a memory-mapped safetensors file into a network, with no second copy of all weights in memory.

    Parameters on the meta device are made on `device`, where buffers go too, in the dtype and memory layout they have
    there. What is mapped is copied, never kept: a file that is overwritten later must not change a loaded network.

    ValueError if the file is broken, or its tensors are not those of the network; it names the first such tensor.
    """
    state = network.state_dict()
    made: dict[str, Tensor] = {}
    ends: dict[str, Extremes] = {}
    for key, value in read_weights(path, state):  # which has compared all shapes before memory is taken for one
        target = state[key]
        if target.is_meta:
            # faster than `empty_like`, which for tensors of the meta device is Python
            target = made[key] = torch.empty_strided(target.shape, target.stride(), dtype=target.dtype, device=device)
        moved = value.to(target.device)  # first to its device, which casts and reorders faster
        ends[key] = extremes(moved)
        target.copy_(moved)
    check_extremes(ends, path)
    if made:
        _place(network, made, device)


def _place(network: nn.Module, made: Mapping[str, Tensor], device: str | torch.device) -> None:
    """Put weights in the place of those on the meta device, and move buffers; `load_state_dict` takes far longer."""
    for prefix, layer in network.named_modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                key = f"{prefix}.{name}" if prefix else name
                value = made[key] if key in made else parameter.to(device)
                layer._parameters[name] = nn.Parameter(value, parameter.requires_grad)
        for name, buffer in layer._buffers.items():
            layer._buffers[name] = buffer if buffer is None else buffer.to(device)


def load_checked(network: nn.Module, file: CheckedFile, device: str | torch.device = "cpu") -> None:
    """`load_weights` of a file's listed bytes; ValueError too if it has others, or gets them while it is read."""
    load_weights(network, file.check(), device)
    file.check()


def read_weights(path: Path, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file by key, mapped, each valid until the next; errors as `load_weights`."""
    keys = _check_header(path, state)
    try:
        while keys:  # a mapping counts as memory, page by page, until it is closed
            mapped = 0
            with safetensors.safe_open(path, framework="pt") as file:
                while keys and mapped < MAPPED:
                    tensor = file.get_tensor(keys[0])
                    mapped += tensor.nbytes
                    yield keys.pop(0), tensor
                    del tensor
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def _check_header(path: Path, state: Mapping[str, Tensor]) -> list[str]:
    """The keys of a safetensors file; ValueError unless its tensors have the shapes of `state`, and are floats."""
    wanted = {key: list(tensor.shape) for key, tensor in state.items()}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
            found = {key: one.get_shape() for key, one in slices.items()}
            kinds = {key: one.get_dtype() for key, one in slices.items()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    if wrong := [key for key in wanted | found if wanted.get(key) != found.get(key)]:
        shapes = f"{found.get(wrong[0], 'none')} in the file, {wanted.get(wrong[0], 'none')} in the network"
        raise ValueError(f"{path} has the weights of another network: the shape of {wrong[0]!r} is {shapes}")
    if strange := [key for key in found if kinds[key] not in FLOATS and state[key].is_floating_point()]:
        raise ValueError(f"{path}: {strange[0]!r} is {kinds[strange[0]]}; weights are {', '.join(FLOATS)}")
    return list(found)


def extremes(tensor: Tensor) -> Extremes:
    """The smallest and the largest value, NaN if there is one; it does not wait for the device."""
    return tensor.aminmax() if tensor.numel() else (tensor.new_zeros(()), tensor.new_zeros(()))


def check_extremes(ends: Mapping[str, Extremes], path: Path) -> None:
    """ValueError if a tensor of a file, by the `extremes` of all, has NaN, infinity, or what no network has."""
    for kind in {low.dtype for low, _ in ends.values()}:
        found = {key: pair for key, pair in ends.items() if pair[0].dtype == kind}
        lows, highs = (torch.stack(side) for side in zip(*found.values(), strict=True))
        for key, value in zip(found, torch.maximum(-lows, highs).tolist(), strict=True):
            if not value <= LARGEST:
                raise ValueError(f"{path}: {key!r} has values up to {value}; weights are finite, at most {LARGEST:g}")


def parameters(path: Path) -> int:
    """The number of parameters in a safetensors file, from its header; ValueError if the file is broken."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118  (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
