"""`ediffi registry` and `ediffi experts`: the parts of recipes, models with a name, and the experts of a model."""

import importlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ediffi.cli.parser import columns
from ediffi.cli.plan import readable
from ediffi.hub import models
from ediffi.registry.core import DISTRIBUTION, Registry, UnknownNameError

if TYPE_CHECKING:
    from ediffi.diffusion.noise import LogNormal
    from ediffi.hub.config import ListedExpert

KINDS = ("encoders", "denoisers", "samplers")


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
    for model in filter(None, map(models.find, models.names(pattern))):
        needs = "" if model.revision is None else f"the Hub: {model.place}"
        rows.append((model.name, "model", _origin(model), needs, model.description))
    if not rows:
        known = {name for parts in registries for name in parts} | set(models.names())
        raise UnknownNameError.among(known, "part", pattern)
    print(*_shown([("NAME", "KIND", "FROM", "NEEDS", "TAKES"), *rows]), sep="\n")


def experts(model: str, /, stage: str | None = None, output: Path | None = None) -> None:
    """List the experts of a model's stages: noise, parent, training steps, parameters, file.

    Args:
        stage: only this stage.
        output: a PNG file; also plot the training noise of each stage and the intervals of its experts.
    """
    from ediffi.diffusion.noise import LogNormal, check_partition
    from ediffi.hub.config import listed_experts, read_config
    from ediffi.pipeline.checkpoint import find_stage, locate
    from ediffi.pipeline.stage import Sampling

    place = locate(model)
    chosen = read_config(place)["stages"] if stage is None else [find_stage(model, stage)[1]]
    plotted = []
    for entry in chosen:
        noise, listed = LogNormal(**entry["noise"]), listed_experts(entry)
        check_partition([one.expert.interval for one in listed])
        print(f"{entry['name']}, {entry['denoiser']['name']}, ln sigma ~ N({noise.mean:g}, {noise.std:g}²)")
        head = ("level", "index", "sigma", "share", "parent", "steps", "parameters", "file")
        print(*(f"  {line}" for line in columns([head, *(_cells(place, noise, one) for one in listed)])), sep="\n")
        plotted.append((entry["name"], noise, [one.expert for one in listed], Sampling(**entry["sampling"]).sigmas()))
    if output is not None:
        from ediffi.pipeline.figures import expert_noise

        expert_noise(plotted, output)
        print(output)


def _cells(place: Path, noise: "LogNormal", listed: "ListedExpert") -> tuple[str, ...]:
    from ediffi.diffusion.noise import Interval
    from ediffi.diffusion.weights import parameters
    from ediffi.hub.config import expert_file

    interval, parent = listed.expert.interval, listed.expert.parent
    share = float(sum(high - low for low, high in interval.spans))
    node = (str(interval.level), str(interval.index)) if isinstance(interval, Interval) else ("-", "-")
    sigmas = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in noise.bounds(interval))
    number = f"{parameters(expert_file(place, listed).check()) / 1e6:.2f} M"
    rest = (f"{100 * share:.3g} %", str(parent or "-"), str(listed.expert.steps), number, listed.file)
    return (*node, sigmas, *rest)


def _shown(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned columns; on a terminal, no wider than it is."""
    end = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return [line if end is None or len(line) <= end else f"{line[: end - 1]}…" for line in columns(rows)]


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
    from ediffi.diffusion.weights import parameters
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
        encoders = ", ".join(config["encoders"]) or "none"
    return "\n".join([*heading, "", *_shown(rows), "", f"encoders: {encoders}"])
