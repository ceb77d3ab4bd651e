"""Weights from elsewhere as safetensors: a training checkpoint, a pickled state dict, the published ADM-64.

Nothing is unpickled but tensors and plain values (`ediffi.io.pickles`), and what is written is whole or not there.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ediffi.io import pickles
from ediffi.registry import denoisers
from ediffi.registry.denoisers.adm import AttentionOrder, from_adm
from ediffi.registry.denoisers.unet import UNet
from ediffi.training import checkpoint as checkpoints

ENDING = ".safetensors"
WRAPPED = "state_dict"
"""The entry that Lightning and many others keep weights in."""
ADM = "unet_adm64"
SEED = 0
"""Of the layers that a published network does not have."""
Weights = dict[str, Tensor]
NOTE = "ediffi"
"""Where a safetensors file of ours says, in JSON, what its weights are of."""


def convert(source: Path, output: Path, key: str | None = None) -> int:
    """Write the weights of a file as safetensors, unchanged; of a checkpoint of ours, the averaged ones.

    Args:
        source: what `torch.save` wrote.
        output: must not exist.
        key: the entry of the file that holds the weights, where it holds more.

    Returns:
        How many numbers were written.

    Raises:
        FileNotFoundError: there is no `source`.
        FileExistsError: `output` exists.
        ValueError: `source` is broken, holds code, or holds no weights where they are looked for.
    """
    _check_output(output)
    content = _read(source)
    note: dict[str, Any] = {}
    if key is None and isinstance(content, Mapping) and checkpoints.KEY in content:
        try:
            trained = checkpoints.parse(content)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        if trained.lora is not None:
            raise ValueError(f"{source} was trained with a low-rank adapter, which ediffi compose merges into weights")
        weights = dict(trained.weights)
        note = {**content[checkpoints.KEY], "steps": trained.expert.steps}
    else:
        weights = _weights(source, content, key)
    return _write(output, weights, note)


def convert_adm(
    source: Path,
    output: Path,
    arguments: Mapping[str, Any],
    attention: AttentionOrder = "new",
    key: str | None = None,
) -> int:
    """Write a published ADM as the whole state of `unet_adm64`, for `start: {weights: ...}` in a recipe.

    The layers that it does not have are drawn from a fixed seed, and say nothing at first; see `from_adm`.

    Args:
        source: a state dict in guided-diffusion's layout, of `torch.save` or as safetensors.
        output: must not exist.
        arguments: of `unet_adm64`, where they are not its defaults.
        attention: how q, k and v lie in the published qkv, see `from_adm`.
        key: the entry of the file that holds the weights, where it holds more.

    Returns:
        How many numbers were written.

    Raises:
        FileNotFoundError: there is no `source`.
        FileExistsError: `output` exists.
        ValueError: `source` is broken, holds code, or is not an ADM of this size, or an argument is wrong.
    """
    _check_output(output)
    weights = _weights(source, _read(source), key)
    values = adm_arguments(arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            network = denoisers.create(ADM, **values).get_submodule("network")
        except (RuntimeError, ValueError) as error:  # RuntimeError is torch's, of a size that cannot be
            raise ValueError(f"there is no {ADM} with {json.dumps(dict(arguments))}: {error}") from None
    assert isinstance(network, UNet)
    try:
        fitted = from_adm(weights, network, attention)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    note = {"denoiser": {"name": ADM, "arguments": dict(arguments)}}
    return _write(output, {f"network.{name}": tensor for name, tensor in fitted.items()}, note)


def adm_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `unet_adm64`, of the types it wants.

    Raises:
        ValueError: it has no such argument, or not with such a value.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(denoisers.REGISTRY.factory(ADM))
    try:
        return dict(parser.parse_object(dict(arguments)).as_dict())
    except ArgumentError as error:
        raise ValueError(f"arguments of {ADM}: {' '.join(str(error).split())}") from None


def _check_output(output: Path) -> None:
    if output.suffix != ENDING:
        raise ValueError(f"the output is a file that ends in {ENDING}, got {output}")
    if output.exists():
        raise FileExistsError(f"{output} is there already; choose another name or remove it")


def _read(source: Path) -> Any:
    if source.suffix != ENDING:
        return pickles.read(source)
    try:
        return safetensors.torch.load_file(source)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{source} is not a safetensors file: {error}") from None


def _weights(source: Path, content: Any, key: str | None) -> Weights:
    """The names and tensors in the content of a file."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{source} holds a {type(content).__name__}, not weights by name")
    entries = ", ".join(sorted(map(str, content))[:12]) or "none"
    if key is not None and key not in content:
        raise ValueError(f"{source} has no entry {key!r}; it has {entries}")
    chosen: Any = content[key] if key is not None else content
    if key is None and isinstance(content.get(WRAPPED), Mapping):
        chosen = content[WRAPPED]
    if not isinstance(chosen, Mapping) or not chosen:
        raise ValueError(f"{source} holds no weights by name{f' as {key!r}' if key else ''}")
    wrong = [name for name, tensor in chosen.items() if not isinstance(name, str) or not isinstance(tensor, Tensor)]
    if wrong and not isinstance(chosen[wrong[0]], Tensor) and key is None:
        raise ValueError(f"{source} holds more than weights: say which entry they are by --key, of {entries}")
    if wrong:
        raise ValueError(f"{source} holds {wrong[0]!r}, which is no tensor with a name")
    return dict(chosen)


def _write(output: Path, weights: Weights, note: Mapping[str, Any]) -> int:
    """Write beside, then rename; mapped tensors go from file to file without a copy in memory."""
    metadata = {NOTE: json.dumps(note)} if note else {"format": "pt"}  # one entry: of several, the order is by chance
    plain, beside = _plain(output, weights), output.with_name(f"{output.name}.tmp")
    try:
        safetensors.torch.save_file(plain, beside, metadata)
        beside.chmod(0o644)  # safetensors writes files that only their owner may read
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(output)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, safetensors.SafetensorError):
            raise OSError(f"{output} could not be written: {error}") from None
        raise
    return sum(tensor.numel() for tensor in plain.values())


def _plain(output: Path, weights: Weights) -> Weights:
    """Each tensor contiguous and in memory of its own, as safetensors wants them: tied ones are written twice."""
    plain, seen = {}, set()
    for name, tensor in weights.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{output} cannot hold {name!r}, a sparse or quantised tensor")
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return plain
