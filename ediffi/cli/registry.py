"""`ediffi registry`: the parts that recipes are built from, and the models that have a name."""

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ediffi.cli.params import readable
from ediffi.hub import models
from ediffi.registry.core import DISTRIBUTION, Registry, UnknownNameError

KINDS = ("encoders", "denoisers", "samplers")
HEAD = ("NAME", "KIND", "FROM", "NEEDS", "TAKES")


def registry(pattern: str = "*", /) -> None:
    """List the registered encoders, denoisers and samplers and the named models, or describe one.

    FROM is the package of a part, or the place of a model. NEEDS is what must be there or is downloaded first: files,
    or a repository of the Hub. The environment variable EDIFFI_MODELS names lists of more models, YAML files of
    `name: {place: ORG/REPO or folder, revision: ..., description: ...}`.

    Args:
        pattern: a name such as unet_toybox, to see what it takes, or a pattern such as "unet*"
    """
    registries: list[Registry[Any]] = [importlib.import_module(f"ediffi.registry.{kind}").REGISTRY for kind in KINDS]
    described = [_describe_part(parts, pattern) for parts in registries if pattern in parts]
    if (model := models.find(pattern)) is not None:
        described.append(_describe_model(model))
    if described:
        print("\n\n".join(described))
        return
    rows = [
        (name, parts.kind.removesuffix("s"), parts.origin(name), parts.needs(name), ", ".join(parts.arguments(name)))
        for parts in registries
        for name in parts.names(pattern)
    ]
    for name in models.names(pattern):
        model = models.find(name)
        assert model is not None
        needs = "" if model.revision is None else f"the Hub: {model.place}"
        rows.append((name, "model", _origin(model), needs, model.description))
    if not rows:
        known = {name for parts in registries for name in parts} | set(models.names())
        raise UnknownNameError.among(known, "part", pattern)
    print(_table([HEAD, *rows]))


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Aligned columns; on a terminal, no wider than it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    end = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return "\n".join(line if end is None or len(line) <= end else f"{line[: end - 1]}…" for line in lines)


def _describe_part(parts: Registry[Any], name: str) -> str:
    """The description of a part; of a denoiser, also the number of its parameters, counted on the meta device."""
    text = parts.describe(name)
    if parts.kind != "denoisers":
        return text
    import torch

    try:
        with torch.device("meta"):
            network = parts.create(name)
    except (TypeError, ValueError):  # an argument has no default
        return text
    if not isinstance(network, torch.nn.Module):
        return text
    number = sum(parameter.numel() for parameter in network.parameters())
    return f"{text}\n\nWith its defaults: {readable(number)} parameters."


def _origin(model: models.NamedModel) -> str:
    if model.revision is not None:
        return f"{model.place}@{model.revision[:12]}"
    return DISTRIBUTION if Path(model.place).parent == models.SHIPPED else model.place


def _describe_model(model: models.NamedModel) -> str:
    from ediffi.diffusion.streaming import parameters
    from ediffi.hub.config import read_config, reading

    heading = [f"{model.name} (model, from {_origin(model)})", *filter(None, [model.description])]
    if model.revision is not None:
        return "\n".join([*heading, f"needs the Hub: {model.place} at revision {model.revision}"])
    place = Path(model.place)
    rows: list[tuple[str, ...]] = [("STAGE", "PIXELS", "DENOISER", "EXPERTS", "PARAMETERS", "ON DISK")]
    with reading(place):
        config = read_config(place)
        for entry in config["stages"]:
            files = [place / expert["file"] for expert in entry["experts"]]
            number, size = sum(map(parameters, files)), sum(file.stat().st_size for file in files)
            row = (entry["name"], f"{entry['resolution']}²", entry["denoiser"]["name"], str(len(files)))
            rows.append((*row, readable(number), f"{size / 1e6:.1f} MB"))
        encoders = ", ".join(config["encoders"])
    return "\n".join([*heading, "", _table(rows), "", f"encoders: {encoders or 'none'}"])
