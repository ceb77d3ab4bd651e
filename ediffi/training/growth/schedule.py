"""A growth schedule: the nodes of the tree to train, their order, their first weights, and how far each one is."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ediffi.diffusion.noise import ROOT, Complement, Interval, NoiseInterval, check_partition, contains, overlap
from ediffi.hub.config import listed_experts
from ediffi.pipeline.checkpoint import find_stage
from ediffi.pipeline.trained_stage import TrainedExpert, read_trained_stage
from ediffi.training import checkpoint as checkpoints
from ediffi.training.finished_run import LAST


@dataclass(frozen=True)
class GrowthNode:
    """A node of a schedule: one training run.

    Args:
        interval: the noise it trains on.
        steps: number of optimiser steps.
        parent: the node whose averaged weights it starts from; None for the published trunk, or random weights.
        overrides: settings of the recipe to change for this node, by dotted name.
        run: directory of the run; by default named after the interval, in the output folder.
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
    """The nodes of a growth schedule, parents first, and their run directories; ValueError if they are no tree.

    The leaves and what is kept of the trunk must own all noise, each part once. The trunk must have an expert for every
    node that starts from it.
    """

    def __init__(self, output: Path, nodes: Sequence[GrowthNode], trunk: TrunkStage | None) -> None:
        self.output, self.nodes, self.trunk = output, nodes, trunk
        if not nodes:
            raise ValueError("the schedule has no nodes; it needs at least one")
        known: list[NoiseInterval] = []
        for node in nodes:
            parent = f"the parent {node.parent} of node {node.interval}"
            if node.interval in known:
                raise ValueError(f"the schedule has node {node.interval} twice")
            if node.parent is not None and node.parent not in known:
                raise ValueError(f"{parent} is not among the nodes before it")
            if node.parent is not None and not contains(node.parent, node.interval):
                raise ValueError(f"{parent} does not own all of its noise")
            if node.steps < 1:
                raise ValueError(f"steps of node {node.interval} must be at least 1, got {node.steps}")
            known.append(node.interval)
        self.leaves = [node for node in nodes if node.interval not in {other.parent for other in nodes}]
        for node in nodes:
            self.lineage(node)
        check_partition([node.interval for node in self.leaves] + [trained.expert.interval for trained in self.kept()])

    def kept(self) -> list[TrainedExpert]:
        """The experts of the trunk whose noise no leaf trains on."""
        if self.trunk is None:
            return []
        experts = read_trained_stage(self.trunk.model, self.trunk.stage).experts
        return [one for one in experts if not any(overlap(one.expert.interval, leaf.interval) for leaf in self.leaves)]

    def named(self, name: str) -> GrowthNode:
        """The node "LEVEL,INDEX", or of the label that names its directory; ValueError lists those there are."""
        label = re.sub(r",\s*", "-", name.strip("() "))
        found = [node for node in self.nodes if node.interval.label == label]
        if not found:
            known = ", ".join(node.interval.label for node in self.nodes)
            raise ValueError(f"the schedule has no node {name!r}; it has {known}")
        return found[0]

    def check_parent(self, node: GrowthNode) -> None:
        """ValueError if the weights that a node starts from are not there yet."""
        if node.parent is not None and (done := self.steps_done(parent := self._node(node.parent))) != parent.steps:
            state = f"is at step {done} of {parent.steps}"
            raise ValueError(f"node {node.interval} starts from {parent.interval}, which {state}; run that first")

    def check_begun(self, reached: Sequence[int]) -> None:
        """ValueError if a node has begun, and its parent is not done (any more): it started from other weights than
        those that the schedule would give it. `reached` are the steps of the nodes."""
        done = {node.interval: (steps, node.steps) for node, steps in zip(self.nodes, reached, strict=True)}
        for node in self.nodes:
            if node.parent is not None and done[node.interval][0] and done[node.parent][0] != done[node.parent][1]:
                at, end = done[node.parent]
                began = f"node {node.interval} was grown from {node.parent}, which is at step {at} of {end}"
                raise ValueError(f"{began}: remove {self.run(node)} to grow it again, or give {node.parent} {at} steps")

    def run(self, node: GrowthNode) -> Path:
        """The run directory of a node."""
        return node.run or self.output / node.interval.label

    def checkpoint(self, node: GrowthNode) -> Path:
        """The last checkpoint of a node's run, there or not."""
        return self.run(node) / LAST

    def start(self, node: GrowthNode) -> dict[str, Any]:
        """Where the first weights of a node come from: the settings `start` of `ediffi fit`."""
        if node.parent is not None:
            return {"checkpoint": str(self.checkpoint(self._node(node.parent)))}
        return {} if self.trunk is None else asdict(self.trunk)

    def lineage(self, node: GrowthNode) -> str:
        """The nodes from the first weights to this one, the trunk's expert by its hash; ValueError if it has none."""
        if node.parent is not None:
            return f"{self.lineage(self._node(node.parent))}/{node.interval.label}"
        if self.trunk is None:
            return node.interval.label
        folder, entry = find_stage(self.trunk.model, self.trunk.stage)
        owners = [row for row in listed_experts(entry) if contains(row.expert.interval, node.interval)]
        if not owners:
            raise ValueError(f"no expert of stage {self.trunk.stage!r} of {folder} owns all of {node.interval}")
        return f"{owners[0].sha256}/{node.interval.label}"

    def seed(self, node: GrowthNode, seed: int) -> int:
        """The seed of a node, from the recipe's and the node's lineage; a root with random weights keeps the recipe's.

        So a node shows its samples in an order of its own, and no noise or dropout that its parent or a sibling had.
        """
        lineage = self.lineage(node)
        if lineage == ROOT.label:
            return seed
        return int.from_bytes(hashlib.sha256(f"{seed}/{lineage}".encode()).digest()[:4], "little")

    def _node(self, interval: NoiseInterval) -> GrowthNode:
        return next(node for node in self.nodes if node.interval == interval)

    def steps_done(self, node: GrowthNode) -> int:
        """The step that the run of a node has reached; ValueError if it is another node's, or has too many steps."""
        checkpoint = self.checkpoint(node)
        if not checkpoint.is_file():
            return 0
        expert = checkpoints.read(checkpoint, weights=False).expert
        if expert.interval != node.interval or (node.parent is not None and expert.parent != node.parent):
            asked = f"the schedule has {node.interval} from {node.parent}; remove that run or choose another output"
            raise ValueError(f"{checkpoint} is of node {expert.interval} grown from {expert.parent}, {asked}")
        if expert.steps > node.steps:
            raise ValueError(f"{checkpoint} has {expert.steps} steps, the schedule has {node.steps}; remove that run")
        return expert.steps
