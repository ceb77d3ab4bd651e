"""A growth schedule: which nodes of the tree are trained, in what order, from what weights, and how far each one is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ediffi.diffusion.noise import Complement, Interval, NoiseInterval, check_partition, contains, overlap
from ediffi.pipeline import folder
from ediffi.pipeline.manifest import TrainedExpert
from ediffi.training import checkpoint as checkpoints


@dataclass(frozen=True)
class GrowthNode:
    """A node of a schedule: one training run.

    Args:
        interval: the noise it trains on.
        steps: for how many optimiser steps.
        parent: the node it starts from; None for the published trunk, or for random weights.
        overrides: settings of the recipe to change for this node, by dotted name.
        run: folder of the run; named after the interval, in the output folder, by default.
    """

    interval: Interval | Complement
    steps: int
    parent: Interval | Complement | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    run: Path | None = None


@dataclass(frozen=True)
class TrunkStage:
    """A published stage to grow from: a model ("toybox", a folder, ORG/REPO of the Hub), and the name of the stage."""

    model: str
    stage: str

    def __str__(self) -> str:
        return f"{self.model}, stage {self.stage}"


class GrowthSchedule:
    """The nodes of a growth schedule and their folders.

    Args:
        output: folder of the runs.
        nodes: parents first.
        trunk: published stage that nodes without a parent start from.

    Raises:
        ValueError: a node is there twice, a parent is not there before its child or does not hold its noise, steps are
            not positive, or the leaves and what is kept of the trunk overlap or leave a gap.
    """

    def __init__(self, output: Path, nodes: Sequence[GrowthNode], trunk: TrunkStage | None) -> None:
        self.output, self.nodes, self.trunk = output, nodes, trunk
        seen: list[NoiseInterval] = []
        for node in nodes:
            if node.interval in seen:
                raise ValueError(f"the schedule has node {node.interval} twice")
            if node.parent is not None and node.parent not in seen:
                raise ValueError(f"the parent {node.parent} of node {node.interval} is not among the nodes before it")
            if node.parent is not None and not contains(node.parent, node.interval):
                raise ValueError(f"the parent {node.parent} of node {node.interval} does not own all of its noise")
            if node.steps < 1:
                raise ValueError(f"steps of node {node.interval} must be at least 1, got {node.steps}")
            seen.append(node.interval)
        self.leaves = [node for node in nodes if node.interval not in {other.parent for other in nodes}]
        check_partition([node.interval for node in self.leaves] + [trained.expert.region for trained in self.kept()])

    def kept(self) -> list[TrainedExpert]:
        """The experts of the trunk that no leaf touches."""
        if self.trunk is None:
            return []
        experts = folder.trained_stage(self.trunk.model, self.trunk.stage).experts
        return [one for one in experts if not any(overlap(one.expert.region, leaf.interval) for leaf in self.leaves)]

    def run(self, node: GrowthNode) -> Path:
        """The folder of a node's run."""
        return node.run or self.output / node.interval.label

    def checkpoint(self, node: GrowthNode) -> Path:
        """The last checkpoint of a node's run."""
        return self.run(node) / "checkpoints" / "last.ckpt"

    def start(self, node: GrowthNode) -> dict[str, Any]:
        """Where a node's weights come from, as settings of `ediffi fit`."""
        if node.parent is not None:
            parent = next(other for other in self.nodes if other.interval == node.parent)
            return {"checkpoint": str(self.checkpoint(parent))}
        return {} if self.trunk is None else asdict(self.trunk)

    def steps_done(self, node: GrowthNode) -> int:
        """How far a node's run is.

        Raises:
            ValueError: the run is another node's, or longer than the schedule says.
        """
        checkpoint = self.checkpoint(node)
        if not checkpoint.is_file():
            return 0
        expert = checkpoints.read(checkpoint).expert
        if expert.region != node.interval or (node.parent is not None and expert.parent != node.parent):
            raise ValueError(
                f"{checkpoint} is of node {expert.region} grown from {expert.parent}, the schedule says {node.interval}"
                f" from {node.parent}; remove that run or choose another output"
            )
        if expert.steps > node.steps:
            raise ValueError(f"{checkpoint} has {expert.steps} steps, the schedule says {node.steps}; remove that run")
        return expert.steps
