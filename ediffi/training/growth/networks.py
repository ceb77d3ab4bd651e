"""What the nodes of a growth schedule must share: the network with their parents, and with each other its noise too."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ediffi.diffusion.noise import LogNormal
from ediffi.pipeline.trained_stage import read_trained_stage
from ediffi.registry import denoisers
from ediffi.training.growth.schedule import GrowthSchedule, TrunkStage
from ediffi.training.start import EXTENDED

NOISE = frozenset({"noise.mean", "noise.std"})


def check_networks(schedule: GrowthSchedule, runs: Sequence[Mapping[str, Any]]) -> None:
    """ValueError if a node has another network than its parent, whose weights it starts from, or a leaf has another
    network or training noise than the first leaf or the trunk: the experts of a stage share both."""
    first, nothing = schedule.leaves[0].interval, frozenset[str]()
    made = {node.interval: _network(run) for node, run in zip(schedule.nodes, runs, strict=True)}
    for node, run in zip(schedule.nodes, runs, strict=True):
        others = [(f"node {first}", made[first], nothing)] if node in schedule.leaves else []
        if node.parent is not None:
            free = NOISE | EXTENDED if run["start"].get("extend") else NOISE
            others.append((f"its parent {node.parent}", made[node.parent], free))
        elif schedule.trunk is not None:
            free = nothing if schedule.kept() else NOISE
            others.append((str(schedule.trunk), _network_of_trunk(schedule.trunk), free))
        own = made[node.interval]
        for name, other, free in others:
            for key in dict.fromkeys((*own, *other)):
                if own.get(key) != other.get(key) and key not in free:
                    raise ValueError(f"node {node.interval} has {key} {own.get(key)}, and {name} has {other.get(key)}")


def _network(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The denoiser of a recipe, its arguments by name, and its training noise."""
    given = settings["model"]["denoiser"]
    part = given if isinstance(given, dict) else {"class_path": given}
    name, arguments = str(part["class_path"]).rpartition(".")[2], part.get("init_args") or {}
    if name in denoisers.REGISTRY:
        arguments = denoisers.architecture(name, arguments)[1]
    noise = dataclasses.asdict(LogNormal()) | (settings["model"].get("noise") or {})
    return {"denoiser": name, **arguments, **{f"noise.{key}": value for key, value in noise.items()}}


def _network_of_trunk(trunk: TrunkStage) -> dict[str, Any]:
    stage = read_trained_stage(trunk.model, trunk.stage)
    part = {"class_path": stage.denoiser.name, "init_args": stage.denoiser.arguments}
    return _network({"model": {"denoiser": part, "noise": dataclasses.asdict(stage.noise)}})
