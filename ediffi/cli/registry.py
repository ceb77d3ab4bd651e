"""`ediffi registry`: what there is to build a recipe from, and the models that have a name."""

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ediffi.cli.params import readable
from ediffi.hub import models
from ediffi.registry.core import DISTRIBUTION, Registry, UnknownNameError

MENUS = ("encoders", "denoisers", "samplers")
HEAD = ("NAME", "KIND", "FROM", "NEEDS", "TAKES")
Row = tuple[str, ...]


def registry(pattern: str = "*", /) -> None:
    """List the registered encoders, denoisers and samplers and the named models, or describe one.

    FROM is the package that brings it, or where a model is. NEEDS is what has to be there or will be fetched first:
    files of yours, or a repository of the Hub. The environment variable EDIFFI_MODELS names lists of more models, YAML
    files of `name: {place: ORG/REPO or folder, revision: ..., description: ...}`.

    Args:
        pattern: a name such as unet_toybox, to see what it takes, or a pattern such as "unet*"

    Raises:
        UnknownNameError: nothing is called so.
    """
    menus: list[Registry[object]] = [importlib.import_module(f"ediffi.registry.{menu}").REGISTRY for menu in MENUS]
    described = [_part(menu, pattern) for menu in menus if pattern in menu]
    if (model := models.find(pattern)) is not None:
        described.append(_model(model))
    if described:
        print("\n\n".join(described))
        return
    rows = [_row(menu, name) for menu in menus for name in menu.names(pattern)]
    named = [model for name in models.names(pattern) if (model := models.find(name)) is not None]
    rows += [(one.name, "model", _origin(one), _needs(one), one.description) for one in named]
    if not rows:
        known = {name for menu in menus for name in menu} | set(models.names())
        raise UnknownNameError.among(known, "part", pattern)
    print(_table([HEAD, *rows]))


def _row(menu: Registry[object], name: str) -> Row:
    return name, menu.kind.removesuffix("s"), menu.origin(name), menu.needs(name), ", ".join(menu.arguments(name))


def _table(rows: Sequence[Row]) -> str:
    """Aligned columns; on a terminal, no wider than it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    end = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return "\n".join(line if end is None or len(line) <= end else f"{line[: end - 1]}…" for line in lines)


def _part(menu: Registry[object], name: str) -> str:
    """A part, and how many parameters a denoiser has as it is, which takes a blink on the meta device."""
    text = menu.describe(name)
    if menu.kind != "denoisers":
        return text
    import torch

    try:
        with torch.device("meta"):
            network = menu.create(name)
    except (TypeError, ValueError):  # some argument has no default
        return text
    if not isinstance(network, torch.nn.Module):
        return text
    number = sum(parameter.numel() for parameter in network.parameters())
    return f"{text}\n\nWith its defaults: {readable(number)} parameters."


def _origin(model: models.NamedModel) -> str:
    if model.revision is not None:
        return f"{model.place}@{model.revision[:12]}"
    return DISTRIBUTION if Path(model.place).parent == models.SHIPPED else model.place


def _needs(model: models.NamedModel) -> str:
    return "" if model.revision is None else f"the Hub: {model.place}"


def _model(model: models.NamedModel) -> str:
    heading = [f"{model.name} (model, from {_origin(model)})", *filter(None, [model.description])]
    if model.revision is not None:
        return "\n".join([*heading, f"needs the Hub: {model.place} at revision {model.revision}"])
    from ediffi.hub.config import read_config

    place = Path(model.place)
    config = read_config(place)
    try:
        stages = [_stage(place, entry) for entry in config["stages"]]
        encoders = ", ".join(config["encoders"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{place / 'config.json'} does not tell all of its stages and encoders: {error}") from None
    rows = [("STAGE", "PIXELS", "DENOISER", "EXPERTS", "PARAMETERS", "ON DISK"), *stages]
    return "\n".join([*heading, "", _table(rows), "", f"encoders: {encoders or 'none'}"])


def _stage(place: Path, entry: dict[str, Any]) -> Row:
    from ediffi.diffusion.streaming import parameters

    files = [place / expert["file"] for expert in entry["experts"]]
    number, size = sum(map(parameters, files)), sum(file.stat().st_size for file in files)
    pixels = f"{entry['resolution']}²"
    return (
        entry["name"],
        pixels,
        entry["denoiser"]["name"],
        str(len(files)),
        readable(number),
        f"{size / 1e6:.1f} MB",
    )
