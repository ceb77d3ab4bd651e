"""Numbers of parameters of the models of recipes, counted on the meta device: without memory and weights, in seconds.

A recipe of `ediffi fit` has one network, a growth schedule one for each expert, and a recipe of `ediffi compose` the
encoders. The stages of the latter name finished runs; the recipes that make these runs say what networks they are.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ediffi.hub.config import Part
from ediffi.io.recipes import one_sentence, recipe_parser
from ediffi.registry import encoders
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.training.class_paths import read_recipe
from ediffi.training.growth.compose import compose
from ediffi.training.growth.grow import FIT, grow, node_settings, read_node_recipe
from ediffi.training.growth.schedule import GrowthSchedule

PARTS = {"embedding": "embedding", "stem": "stem", "halving": "down", "down": "down", "middle": "middle", "up": "up"}
PARTS |= {"doubling": "up", "norm": "out", "out": "out"}
"""The modules of our U-Nets in the order they run, and the part that each is counted as."""


@dataclass(frozen=True)
class NetworkParameters:
    """Sizes of the networks that a recipe trains: one, or experts of one architecture."""

    denoiser: str  # registry name
    parts: Mapping[str, int]  # parameters of one network, by part
    experts: Sequence[str] = ()  # their noise intervals; empty for a single network
    run: Path | None = None  # run directory, or folder of the grown stage; None if the recipe does not name it

    @property
    def each(self) -> int:
        """Parameters of one network."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """Parameters of all networks."""
        return self.each * max(1, len(self.experts))


@dataclass(frozen=True)
class EncoderParameters:
    """Names and parameters of the encoders of a cascade, and the run directories of each of its stages."""

    texts: Sequence[tuple[str, int]]
    images: Sequence[tuple[str, int]]
    runs: Mapping[str, Sequence[Path]]

    @property
    def total(self) -> int:
        """Parameters as table 1 of the paper counts them: those of the text encoders."""
        return sum(number for _, number in self.texts)


def count(path: Path) -> NetworkParameters | EncoderParameters:
    """Count what a recipe builds; its keys say of which kind it is.

    Paths in it are relative to the working directory, as for the commands; the recipe of the nodes of a growth schedule
    may also be in the schedule's folder.
    """
    content = read_recipe(path)
    if {"recipe", "nodes"} <= content.keys():
        return _grown(path, content)
    if {"stages", "encoder_parts"} <= content.keys():
        return _encoders(path, content)
    if isinstance(content.get("model"), dict) and "denoiser" in content["model"]:
        trainer = content.get("trainer")
        run = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
        return NetworkParameters(*_network(path, content["model"]["denoiser"]), run=None if run is None else Path(run))
    raise ValueError(
        f"{path} is no recipe: one of ediffi fit has model with a denoiser, one of ediffi grow has recipe and nodes, "
        "one of ediffi compose has stages and encoder_parts"
    )


def read_training(path: Path) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """The settings of a training recipe, or of the last leaf of a growth schedule with name and steps of each run."""
    content = read_recipe(path)
    if {"recipe", "nodes"} <= content.keys():
        _, schedule, leaves = _schedule(path, content)
        return leaves[-1], [(str(node.interval), node.steps) for node in schedule.nodes]
    if not content.keys() >= FIT or "denoiser" not in (content["model"] or {}):
        raise ValueError(f"{path} trains nothing: a recipe of ediffi fit has model, data and trainer")
    return content, []


def build_denoiser(path: Path, denoiser: Any) -> tuple[str, Preconditioned]:
    """The registry name of a recipe's denoiser, and the denoiser; without weights under `torch.device("meta")`."""
    parser = recipe_parser()
    parser.add_argument("--denoiser", type=Preconditioned, required=True)
    values, built = _typed(path, parser, {"denoiser": denoiser})
    return values.denoiser.class_path.rpartition(".")[2], built.denoiser


def _typed(path: Path, parser: ArgumentParser, content: dict[str, Any]) -> tuple[Namespace, Namespace]:
    """Settings as the parser's types have them, and the objects that they describe."""
    try:
        values = parser.parse_object(content)
        return values, parser.instantiate(values)
    except (
        ArgumentError,
        ValueError,
        RuntimeError,
        TypeError,
    ) as error:  # a RuntimeError is torch's, of an impossible size
        raise ValueError(f"{path}: {one_sentence(error)}") from error


def _network(path: Path, denoiser: Any) -> tuple[str, dict[str, int]]:
    """The registry name of a recipe's denoiser, and its parameters by part."""
    with torch.device("meta"):
        name, built = build_denoiser(path, denoiser)
    parts = dict.fromkeys(PARTS.values(), 0)
    for key, parameter in built.named_parameters():
        module = key.removeprefix("network.").partition(".")[0]
        part = PARTS.get(module, module)
        parts[part] = parts.get(part, 0) + parameter.numel()
    return name, {part: number for part, number in parts.items() if number}


def _grown(path: Path, content: dict[str, Any]) -> NetworkParameters:
    """The leaves of a growth schedule, and the experts that are kept of its trunk."""
    recipe, schedule, leaves = _schedule(path, content)
    networks = [_network(recipe, settings["model"].get("denoiser")) for settings in leaves]
    for leaf, network in zip(schedule.leaves, networks, strict=True):
        if network != networks[0]:
            raise ValueError(f"{path} gives node {leaf.interval} another network than the others; experts share one")
    regions = [leaf.interval for leaf in schedule.leaves] + [one.expert.interval for one in schedule.kept()]
    experts = [str(region) for region in sorted(regions, key=lambda region: region.spans)]
    return NetworkParameters(*networks[0], experts if len(experts) > 1 else (), schedule.output / "stage")


def _schedule(path: Path, content: dict[str, Any]) -> tuple[Path, GrowthSchedule, list[dict[str, Any]]]:
    """The recipe of a growth schedule's nodes, the schedule, and the settings of its leaves."""
    parser = recipe_parser()
    parser.add_function_arguments(grow, skip={"run_node"})
    _, values = _typed(path, parser, content)
    schedule = GrowthSchedule(values.output, values.nodes, values.trunk)
    beside = path.parent / values.recipe.name
    recipe = beside if beside.is_file() and not values.recipe.is_file() else values.recipe
    shared = read_node_recipe(recipe)
    return recipe, schedule, [node_settings(shared, schedule, leaf, values.overrides) for leaf in schedule.leaves]


def _encoders(path: Path, content: dict[str, Any]) -> EncoderParameters:
    parser = recipe_parser()
    parser.add_function_arguments(compose)
    _, values = _typed(path, parser, {"output": "unused", **content})
    counted = [(part.name, _encoder(part.uncomposed(values.encoder_files))) for part in values.encoder_parts.values()]
    runs = {stage.name: stage.run if isinstance(stage.run, list) else [stage.run] for stage in values.stages}
    return EncoderParameters(
        [row for row in counted if encoders.spec(row[0]).reads == "text"],
        [row for row in counted if encoders.spec(row[0]).reads == "image"],
        {name: [run for run in some if run is not None] for name, some in runs.items()},
    )


def _encoder(part: Part) -> int:
    """Parameters of an encoder, as its factory declares them."""
    try:
        bound = inspect.signature(encoders.REGISTRY.factory(part.name)).bind(**part.arguments)
    except TypeError as error:
        raise ValueError(f"encoder {part.name}: {error}") from None
    bound.apply_defaults()
    if (sizes := encoders.spec(part.name).sizes) is None:
        raise ValueError(f"encoder {part.name} declares no sizes, and cannot be counted without loading it")
    return sizes(**bound.arguments).parameters
