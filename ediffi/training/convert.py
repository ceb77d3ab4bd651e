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
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from ediffi.io import files, pickles
from ediffi.registry import denoisers
from ediffi.registry.denoisers.adm import AttentionOrder, from_adm
from ediffi.registry.denoisers.unet import UNet
from ediffi.training import checkpoint as checkpoints
from ediffi.training.shard_reader import filled

ENDING = ".safetensors"
WRAPPED = "state_dict"
"""The entry in which Lightning and many others save weights."""
ADM = "unet_adm64"
SEED = 0
"""Of the layers that the published network does not have."""
METADATA = "ediffi"
"""Key of the safetensors metadata that describes, in JSON, what the weights are of."""


def convert(source: Path, output: Path, key: str | None = None) -> int:
    """Write the weights of a file of `torch.save` as safetensors, unchanged, and return the number of parameters.

    Of a checkpoint of ours, they are the averaged ones. `key` is the entry of the file that has the weights.
    """
    content, record = _read(source, output), {}
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
    source: Path, output: Path, arguments: Mapping[str, Any], attention: AttentionOrder = "new", key: str | None = None
) -> int:
    """Write a published ADM as the whole state of `unet_adm64`, for `start: {weights: ...}` in a recipe.

    `source` is a state dict in guided-diffusion's layout, `arguments` are those of `unet_adm64` that are not its
    defaults. The layers that it does not have are drawn from a fixed seed, and have no effect at first; see `from_adm`.
    """
    weights = _weights(source, _read(source, output), key)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(denoisers.REGISTRY.factory(ADM))
    try:
        values = parser.parse_object(dict(arguments)).as_dict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network = denoisers.create(ADM, **values).get_submodule("network")
    except (ArgumentError, RuntimeError, ValueError) as error:  # RuntimeError is torch's, of a size that cannot be
        cause = " ".join(str(error).split())
        raise ValueError(f"there is no {ADM} with {json.dumps(dict(arguments))}: {cause}") from None
    assert isinstance(network, UNet)
    try:
        fitted = from_adm(weights, network, attention)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    record = {"denoiser": {"name": ADM, "arguments": dict(arguments)}}
    return _write(output, {f"network.{name}": tensor for name, tensor in fitted.items()}, record)


def _read(source: Path, output: Path) -> Any:
    """The content of a file, if `output` can be written."""
    if output.suffix != ENDING:
        raise ValueError(f"output must end in {ENDING}, got {output}")
    if output.exists():
        raise FileExistsError(f"{output} exists already; choose another name or remove it")
    if source.suffix != ENDING:
        content = pickles.read(source)
        return filled(source, content) if isinstance(content, dict) else content
    try:
        return safetensors.torch.load_file(source)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{source} is not a safetensors file: {error}") from None


def _weights(source: Path, content: Any, key: str | None) -> dict[str, Tensor]:
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


def _write(output: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> int:
    """Write a safetensors file; mapped tensors go from file to file without a copy in memory.

    safetensors wants each tensor contiguous and in separate memory, so tied ones are written twice.
    """
    metadata = {METADATA: json.dumps(record)} if record else {"format": "pt"}  # one entry: the order of more is random
    plain, storages = {}, set()
    for name, tensor in weights.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{output} cannot hold {name!r}, a sparse or quantised tensor")
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    try:
        with files.replacing(output) as beside:
            safetensors.torch.save_file(plain, beside, metadata)
            beside.chmod(0o644)  # safetensors writes files that only their owner may read
            with beside.open("rb") as file:
                os.fsync(file.fileno())
    except safetensors.SafetensorError as error:
        raise OSError(f"{output} could not be written: {error}") from None
    return sum(tensor.numel() for tensor in plain.values())
