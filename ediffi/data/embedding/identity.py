"""Which encoders make embeddings, and how to recognize them later: by their weights, not by where these are stored."""

import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ediffi.hub import config, models
from ediffi.hub.config import Part
from ediffi.hub.finding import parse_address
from ediffi.io import plain_yaml
from ediffi.io.files import sha256
from ediffi.pipeline.checkpoint import locate
from ediffi.registry import encoders
from ediffi.registry.types import Encoder

FILES = (
    "*.safetensors", "*.safetensors.index.json", "*config.json", "tokenizer*.json", "special_tokens_map.json",
    "*.model", "vocab.*", "merges.txt",
)  # fmt: skip
"""The files of an encoder's folder that determine its embeddings."""


def named_encoders(names: Sequence[str]) -> dict[str, Part]:
    """Encoders by source, of one model, one YAML file, or registered names.

    A model is the shipped "toybox", a folder, or ORG/REPO of the Hub. A YAML file has `name` and `arguments` by source,
    at the top or under `encoder_parts`, as in the recipe of a cascade. Before a registered name ("t5_xxl"), "SOURCE="
    sets another source than its own. ValueError: the YAML names no encoders, or two encoders have the same source.
    """
    if not names:
        raise ValueError("no encoders; give a model, a YAML file or registered names")
    parts = _model_or_file(names[0]) if len(names) == 1 else None
    if parts is None:
        pairs = [name.split("=", 1) if "=" in name else (encoders.spec(name).source, name) for name in names]
        parts = {source: Part(name, {}) for source, name in pairs}
        if len(parts) < len(pairs):
            raise ValueError(f"two of {', '.join(names)} have the same source; name the sources, as in SOURCE=NAME")
    for part in parts.values():
        encoders.REGISTRY.factory(part.name)
    return parts


def build(parts: Mapping[str, Part], device: str = "cpu") -> dict[str, Encoder]:
    """The encoders, on a device; ValueError: a wrong argument or broken file; FileNotFoundError: a missing one."""
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
    """What an index records of an encoder: name, arguments, widths and dtype, and of its weights the "sha256" of the
    files in its folder, or the commit of the Hub as "revision", or else "weights", a hash of its parameters."""
    call = inspect.signature(encoders.REGISTRY.factory(part.name)).bind(**part.arguments)
    call.apply_defaults()
    arguments, given, declared = dict(part.arguments), call.arguments, encoders.spec(part.name).weights
    source, revision = declared(**given) if declared else (str(given.get("path") or ""), given.get("revision"))
    if source and Path(source).is_dir():
        arguments.pop("path", None)
        weights = {"sha256": folder_sha256(Path(source))}
    elif (commit := _commit(source, revision)) is not None:
        weights = {"revision": commit}
    else:
        weights = {"weights": _parameters_sha256(encoder)}
    widths = {name: getattr(encoder, name, None) for name in ("width", "pooled_width")}
    dtype = str(getattr(encoder, "dtype", "unknown")).removeprefix("torch.")
    return {"name": part.name, "arguments": arguments, **weights, **widths, "dtype": dtype}


def folder_sha256(folder: Path) -> str:
    """One hash of the files in a folder that determine an encoder's embeddings: of their names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in FILES):
            digest.update(f"{path.name}\n{sha256(path)}\n".encode())
    return digest.hexdigest()


def _model_or_file(name: str) -> dict[str, Part] | None:
    """The encoders of a model or of a YAML file; None for the name of an encoder."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    if name in encoders.REGISTRY or "=" in name:
        return None
    if not path.is_dir() and name not in models.names() and parse_address(name) is None:
        encoders.REGISTRY.factory(name)  # raises, with the near names
    folder = locate(name)
    parts = config.encoder_parts(config.read_config(folder))
    return {source: _absolute(part, folder) for source, part in parts.items()}


def _from_yaml(path: Path) -> dict[str, Part]:
    try:
        content = plain_yaml.load(path.read_text(encoding="utf-8"))
        entries = content.get("encoder_parts", content)
        parts = {source: Part(entry["name"], dict(entry.get("arguments") or {})) for source, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} names no encoders (source: {{name: ..., arguments: ...}}): {error!r}") from None
    files = content.get("encoder_files")
    return {source: part.uncomposed(files and Path(files)) for source, part in parts.items()}


def _absolute(part: Part, folder: Path) -> Part:
    """The part with a path inside of `folder` made complete."""
    inside = folder / str(part.arguments.get("path"))
    return Part(part.name, {**part.arguments, "path": str(inside)}) if inside.is_dir() else part


def _commit(repository: str, revision: str | None) -> str | None:
    """The commit of a repository in the Hub's cache that an encoder was loaded from."""
    from huggingface_hub import try_to_load_from_cache

    from ediffi.registry.core import HUB_ID

    if not HUB_ID.fullmatch(repository):
        return None
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    files = ("config.json", "open_clip_model.safetensors")
    found = (try_to_load_from_cache(repository, file, revision=revision) for file in files)
    return next((Path(path).parent.name for path in found if isinstance(path, str)), None)  # .../snapshots/COMMIT/file


def _parameters_sha256(encoder: Encoder) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()) if isinstance(encoder, nn.Module) else ():
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        digest.update(name.encode() + data)
    return digest.hexdigest()
