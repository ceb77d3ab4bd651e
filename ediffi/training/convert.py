"""Other files of weights as safetensors: a training checkpoint, a pickled state dict, the published ADM-64.

Only tensors and plain values are unpickled (`ediffi.io.pickles`).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ediffi.io import files, pickles
from ediffi.registry import denoisers
from ediffi.registry.denoisers.adm import AttentionOrder, from_adm
from ediffi.registry.denoisers.unet import UNet
from ediffi.training import checkpoint as checkpoints

ENDING = ".safetensors"
WRAPPED = "state_dict"
"""The entry in which Lightning and many others save weights."""
ADM = "unet_adm64"
SEED = 0
"""Of the layers that the published network does not have."""
Weights = dict[str, Tensor]
METADATA = "ediffi"
"""Key of the safetensors metadata that describes, in JSON, what the weights are of."""


def convert(source: Path, output: Path, key: str | None = None) -> int:
    """Write the weights of a file as safetensors, unchanged; of a checkpoint of ours, the averaged ones.

    Args:
        source: a file of `torch.save`.
        output: a `.safetensors` file that does not exist.
        key: the entry of the file that has the weights, if it has more.

    Returns:
        The number of parameters written.

    Raises:
        FileNotFoundError: there is no `source`.
        FileExistsError: `output` exists.
        ValueError: `source` is broken, contains code, or has no weights under `key`.
    """
    _check_output(output)
    content = _read(source)
    record: dict[str, Any] = {}
    if key is None and isinstance(content, Mapping) and checkpoints.KEY in content:
        try:
            trained = checkpoints.parse(content)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        if trained.lora is not None:
            raise ValueError(f"{source} was trained with a low-rank adapter, which ediffi compose merges into weights")
        weights = dict(trained.weights)
        record = {**content[checkpoints.KEY], "steps": trained.expert.steps}
    else:
        weights = _weights(source, content, key)
    return _write(output, weights, record)


def convert_adm(
    source: Path,
    output: Path,
    arguments: Mapping[str, Any],
    attention: AttentionOrder = "new",
    key: str | None = None,
) -> int:
    """Write a published ADM as the whole state of `unet_adm64`, for `start: {weights: ...}` in a recipe.

    The layers that it does not have are drawn from a fixed seed, and have no effect at first; see `from_adm`.

    Args:
        source: a state dict in guided-diffusion's layout, of `torch.save` or as safetensors.
        output: a `.safetensors` file that does not exist.
        arguments: of `unet_adm64`, where they are not its defaults.
        attention: the order of q, k and v in the published qkv, see `from_adm`.
        key: the entry of the file that has the weights, if it has more.

    Returns:
        The number of parameters written.

    Raises:
        FileNotFoundError: there is no `source`.
        FileExistsError: `output` exists.
        ValueError: `source` is broken, contains code, or is not an ADM of this size, or an argument is wrong.
    """
    _check_output(output)
    weights = _weights(source, _read(source), key)
    values = _adm_arguments(arguments)
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
    record = {"denoiser": {"name": ADM, "arguments": dict(arguments)}}
    return _write(output, {f"network.{name}": tensor for name, tensor in fitted.items()}, record)


def _adm_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `unet_adm64`, parsed to the types of its signature."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(denoisers.REGISTRY.factory(ADM))
    try:
        return dict(parser.parse_object(dict(arguments)).as_dict())
    except ArgumentError as error:
        raise ValueError(f"arguments of {ADM}: {' '.join(str(error).split())}") from None


def _check_output(output: Path) -> None:
    if output.suffix != ENDING:
        raise ValueError(f"output must end in {ENDING}, got {output}")
    if output.exists():
        raise FileExistsError(f"{output} exists already; choose another name or remove it")


def _read(source: Path) -> Any:
    if source.suffix != ENDING:
        return pickles.read(source)
    try:
        return safetensors.torch.load_file(source)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{source} is not a safetensors file: {error}") from None


def _weights(source: Path, content: Any, key: str | None) -> Weights:
    """The weights by name in the content of a file."""
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


def _write(output: Path, weights: Weights, record: Mapping[str, Any]) -> int:
    """Write a safetensors file; mapped tensors go from file to file without a copy in memory."""
    metadata = {METADATA: json.dumps(record)} if record else {"format": "pt"}  # one entry: the order of more is random
    plain = _plain(output, weights)
    try:
        with files.replacing(output) as beside:
            safetensors.torch.save_file(plain, beside, metadata)
            beside.chmod(0o644)  # safetensors writes files that only their owner may read
            with beside.open("rb") as file:
                os.fsync(file.fileno())
    except safetensors.SafetensorError as error:
        raise OSError(f"{output} could not be written: {error}") from None
    return sum(tensor.numel() for tensor in plain.values())


def _plain(output: Path, weights: Weights) -> Weights:
    """Each tensor contiguous and in memory of its own, as safetensors requires; tied ones are written twice."""
    plain, storages = {}, set()
    for name, tensor in weights.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{output} cannot hold {name!r}, a sparse or quantised tensor")
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return plain
