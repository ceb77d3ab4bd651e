"""Whether `ediffi fit` takes the settings of every node of a schedule: asked before the first one is trained."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from ediffi.data.module import ShardData
from ediffi.io import recipes
from ediffi.training.growth.schedule import GrowthNode
from ediffi.training.lightning_cli import seed
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.one_cycle import in_steps
from ediffi.training.start import InitialWeights

GROUPS: dict[str, Any] = {"trainer": L.Trainer, "model": DiffusionStage, "data": ShardData}
"""The class whose arguments the settings of a group are."""
NOT_BUILT = ("optimizer", "lr_scheduler", "ckpt_path", "weights_only", "verbose")
"""What a recipe of `ediffi fit` may have besides."""


def check_settings(nodes: Sequence[GrowthNode], runs: Sequence[Mapping[str, Any]]) -> None:
    """Build what the runs of nodes are made of, without weights, for a CPU, and run nothing. ValueError: one of them
    cannot be built.

    What depends on the machine of a run is not known here: its devices, its strategy, and where its shards are.
    """
    recipes.restrict()
    parser = LightningArgumentParser(exit_on_error=False, parser_mode=recipes.MODE)
    parser.add_argument("--seed_everything", type=seed, default=0)
    for name, factory in GROUPS.items():
        parser.add_lightning_class_args(factory, name)
    parser.add_class_arguments(InitialWeights, "start")
    for node, settings in zip(nodes, runs, strict=True):
        plain = yaml.safe_load(yaml.safe_dump({k: v for k, v in settings.items() if k not in NOT_BUILT}))
        try:
            _build(parser, plain, node.steps)
        except (ArgumentError, ValueError, RuntimeError, MisconfigurationException) as error:
            raise ValueError(f"node {node.interval} cannot be trained: {recipes.one_sentence(error)}") from error


def _build(parser: LightningArgumentParser, settings: Mapping[str, Any], steps: int) -> None:
    values = parser.parse_object(dict(settings))
    plain = values.as_dict()
    recipes.check_classes(plain)
    for name, factory in GROUPS.items():
        recipes.check_given(name, factory, plain[name])
    values.trainer.logger = None  # W&B's asks its server
    with recipes.building():
        with torch.device("meta"):
            built = parser.instantiate(values)
        in_steps(built.model._optimizer([torch.nn.Parameter(torch.zeros(1))]), built.model._lr_scheduler, steps)
        here = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None}
        trainer: dict[str, Any] = {**built.trainer, **here, "plugins": [LightningEnvironment()], "logger": False}
        with _silent():
            built.data.trainer = L.Trainer(**trainer)
        built.data.check_limits()


@contextmanager
def _silent() -> Iterator[None]:
    """Without what a trainer says of this machine."""
    lightnings = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, lightnings.disabled = lightnings.disabled, True
        try:
            yield
        finally:
            lightnings.disabled = before
