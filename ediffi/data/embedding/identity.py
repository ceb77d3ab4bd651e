"""Which encoders embeddings are made with, and how to tell them apart later: by what they are, not where they lie."""

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ediffi.hub import models
from ediffi.hub.config import Part, read_config
from ediffi.hub.repository import place_of
from ediffi.io.files import sha256
from ediffi.pipeline.checkpoint import locate
from ediffi.registry import encoders
from ediffi.registry.types import Encoder

FILES = (
    "*.safetensors", "*.safetensors.index.json", "*config.json", "tokenizer*.json", "special_tokens_map.json",
    "*.model", "vocab.*", "merges.txt",
)  # fmt: skip
"""What of a model folder makes its embeddings."""


def encoder_parts(named: Sequence[str]) -> dict[str, Part]:
    """The encoders that are meant, by source.

    Args:
        named: one model (the shipped "toybox", a folder, or ORG/REPO of the Hub), whose encoders are taken; or one YAML
            file, with `name` and `arguments` by source, or with those under `encoder_parts`, as in a recipe of a
            cascade; or registered names ("t5_xxl"), each with its source before it ("t5=t5_xxl") if that is another
            than usual.

    Raises:
        FileNotFoundError: no such file or folder.
        UnknownNameError: an encoder is not registered.
        ValueError: the YAML is not as it should be, or two encoders have one source.
    """
    if not named:
        raise ValueError("no encoders; give a model, a YAML file or registered names")
    parts = _of_one(named[0]) if len(named) == 1 else None
    if parts is None:
        pairs = [name.split("=", 1) if "=" in name else (encoders.spec(name).source, name) for name in named]
        parts = {source: Part(name, {}) for source, name in pairs}
        if len(parts) < len(pairs):
            raise ValueError(f"two of {', '.join(named)} have the same source; say which is which with SOURCE=NAME")
    for part in parts.values():
        encoders.REGISTRY.factory(part.name)
    return parts


def build(parts: Mapping[str, Part], device: str = "cpu") -> dict[str, Encoder]:
    """The encoders, on a device.

    Raises:
        FileNotFoundError: the files of one are missing.
        ValueError: an argument is missing or wrong, or a file is broken.
    """
    built: dict[str, Encoder] = {}
    for source, part in parts.items():
        try:
            inspect.signature(encoders.REGISTRY.factory(part.name)).bind(**part.arguments)
        except TypeError as error:
            raise ValueError(f"the encoder {part.name!r} has {error}; give its arguments in a YAML file") from None
        encoder = encoders.create(part.name, **part.arguments)
        built[source] = encoder.to(device) if isinstance(encoder, nn.Module) else encoder
    return built


def identity(part: Part, encoder: Encoder) -> dict[str, Any]:
    """What an index records of an encoder.

    Returns:
        "name" and "arguments", "width" and "pooled_width", "dtype" it computes in; and of its weights either "sha256"
        of the folder's files, or the commit of the Hub as "revision", or, where there is neither, "weights", a hash of
        its parameters.
    """
    told = dict(part.arguments)
    where = _where(part)
    if Path(where).is_dir():
        told.pop("path", None)
        weights = {"sha256": folder_sha256(Path(where))}
    elif (commit := _commit(part, where)) is not None:
        weights = {"revision": commit}
    else:
        weights = {"weights": _weights_sha256(encoder)}
    shape = {name: getattr(encoder, name, None) for name in ("width", "pooled_width")}
    dtype = str(getattr(encoder, "dtype", "unknown")).removeprefix("torch.")
    return {"name": part.name, "arguments": told, **weights, **shape, "dtype": dtype}


def folder_sha256(place: Path) -> str:
    """One hash of the files in a model folder that make its embeddings: names and contents, wherever it lies."""
    digest = hashlib.sha256()
    for path in sorted(place.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in FILES):
            digest.update(f"{path.name}\n{sha256(path)}\n".encode())
    return digest.hexdigest()


def _of_one(name: str) -> dict[str, Part] | None:
    """The parts of a model or of a YAML file, or None for the name of an encoder."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _of_yaml(path)
    if name in encoders.REGISTRY or "=" in name:
        return None
    if not path.is_dir() and name not in models.names() and place_of(name) is None:
        encoders.REGISTRY.factory(name)  # says what it could have been
    place = locate(name)
    parts = {source: Part(**entry) for source, entry in read_config(place)["encoders"].items()}
    return {source: _anchored(part, place) for source, part in parts.items()}


def _of_yaml(path: Path) -> dict[str, Part]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = content.get("encoder_parts", content)
        parts = {source: Part(entry["name"], dict(entry.get("arguments") or {})) for source, entry in entries.items()}
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} names no encoders (source: {{name: ..., arguments: ...}}): {error!r}") from None
    files = content.get("encoder_files")
    return parts if files is None else {source: _anchored(part, Path(files).parent) for source, part in parts.items()}


def _anchored(part: Part, place: Path) -> Part:
    """The part with a path inside of `place` made complete."""
    inside = place / str(part.arguments.get("path"))
    return Part(part.name, {**part.arguments, "path": str(inside)}) if inside.is_dir() else part


def _where(part: Part) -> str:
    """The folder or the repository of the Hub that the weights of a part come from; empty if nobody can tell."""
    call = inspect.signature(encoders.REGISTRY.factory(part.name)).bind(**part.arguments)
    call.apply_defaults()
    if call.arguments.get("path"):
        return str(call.arguments["path"])
    if "pretrained" in call.arguments and part.name.startswith("clip_l14"):
        import open_clip

        return str(open_clip.get_pretrained_cfg("ViT-L-14", call.arguments["pretrained"])["hf_hub"]).rstrip("/")
    return ""


def _commit(part: Part, repository: str) -> str | None:
    """The commit of the Hub's cache that a part was loaded from."""
    from huggingface_hub import try_to_load_from_cache

    from ediffi.registry.core import HUB_ID
    from ediffi.registry.encoders.clip_files import PINNED

    if not HUB_ID.fullmatch(repository):
        return None
    call = inspect.signature(encoders.REGISTRY.factory(part.name)).bind(**part.arguments)
    call.apply_defaults()
    revision = call.arguments.get("revision") or PINNED.get(repository)
    if revision and re.fullmatch(r"[0-9a-f]{40}", str(revision)):
        return str(revision)
    for file in ("config.json", "open_clip_model.safetensors"):
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent.name
    return None


def _weights_sha256(encoder: Encoder) -> str:
    digest = hashlib.sha256()
    for name, data in _tensors(encoder):
        digest.update(name.encode() + data)
    return digest.hexdigest()


def _tensors(encoder: Encoder) -> Iterator[tuple[str, bytes]]:
    if isinstance(encoder, nn.Module):
        for name, tensor in sorted(encoder.state_dict().items()):
            yield name, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
