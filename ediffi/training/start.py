"""The first weights of a run: random, or those of a parent, trained whole or with an adapter."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from ediffi.diffusion.noise import NoiseInterval, contains, interval_from
from ediffi.diffusion.weights import load_weights
from ediffi.io import plain_json
from ediffi.pipeline.checkpoint import load_expert
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.training import checkpoint as checkpoints
from ediffi.training import lora
from ediffi.training.convert import METADATA
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.lora import Lora

EXTENDED = frozenset({"pooled", "attention_levels", "self_attention_levels", "cross_attention_levels", "feed_forward"})
"""Arguments of denoisers that may differ when a run extends its parent's network."""
BRANCHES = frozenset({"self_attention", "cross_attention", "feed_forward"})
"""Residual branches of a block, which begin as the identity."""


@dataclass(frozen=True)
class InitialWeights:
    """Where a run takes its first weights from, and which of them it trains.

    Args:
        checkpoint: a training checkpoint; its averaged weights are taken.
        model: instead, a cascade: the shipped "toybox", a folder, or ORG/REPO of the Hub.
        stage: of `model`, and with it; the expert that owns the run's noise is taken.
        weights: instead, a safetensors file of the whole denoiser, as `ediffi convert` writes it.
        extend: whether the recipe's denoiser may have more than that of `checkpoint`: pooled embeddings, attention at
            more levels, feed-forwards. Their output begins at zero, so that the first images are the parent's.
        lora: train a low-rank adapter instead of all weights.
    """

    checkpoint: Path | None = None
    model: str | None = None
    stage: str | None = None
    weights: Path | None = None
    extend: bool = False
    lora: Lora = field(default_factory=Lora)

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.checkpoint, self.model, self.weights)) > 1:
            raise ValueError("a run starts from one of checkpoint, model and weights, not from several")
        if (self.model is None) != (self.stage is None):
            raise ValueError(f"model and stage go together, got model {self.model!r} and stage {self.stage!r}")
        if self.extend and self.checkpoint is None:
            raise ValueError("extend adds to the network of a checkpoint, and no start.checkpoint is named")

    @property
    def named(self) -> bool:
        """Whether it names weights; else they are random."""
        return (self.checkpoint or self.model or self.weights) is not None

    def __call__(self, module: DiffusionStage) -> None:
        """Load the parent's weights into a stage, record the parent, and add the adapter.

        ValueError if the weights are broken, of another architecture, or of noise that does not contain the stage's.
        """
        if self.checkpoint is not None:
            _load_checkpoint(self.checkpoint, module, self.extend)
        elif self.weights is not None:
            module.parent = _recorded_interval(self.weights)
            _check_noise(self.weights, module.parent, module.region)
            load_weights(module.denoiser, self.weights)
        elif self.model is not None and self.stage is not None:
            module.parent = load_expert(self.model, self.stage, module.region, module.denoiser)
        if self.lora.rank:
            module.lora = self.lora
            lora.add(module.denoiser, self.lora)


def _load_checkpoint(path: Path, module: DiffusionStage, extend: bool) -> None:
    """Load the averaged weights of a checkpoint, an adapter merged into them, and record the parent."""
    trained = checkpoints.read(path)
    _check_noise(path, trained.expert.interval, module.region)
    other = f"{path} has the weights of another network than the recipe's denoiser"
    try:
        checkpoints.check_meaning(trained.stage, module.denoiser.made_by, EXTENDED if extend else ())
    except ValueError as error:
        raise ValueError(f"{other}: {error}") from None
    module.parent = trained.expert.interval
    weights = trained.weights
    try:
        if trained.lora is not None:
            weights = lora.merged(copy.deepcopy(module.denoiser), trained.lora, weights)
        module.denoiser.load_state_dict(_extended(module.denoiser, weights) if extend else weights)
    except RuntimeError:
        raise ValueError(other) from None


def _extended(denoiser: Preconditioned, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, and those of new parts, whose output is zero: the last layer of a new residual branch is."""
    new = {key: value for key, value in denoiser.state_dict().items() if key not in weights}
    for key in new:
        names = set(key.split("."))
        if "pooled" in names:
            new[key] = torch.zeros_like(new[key])
        elif not names & BRANCHES:
            raise RuntimeError(f"{key} is not in the checkpoint, and the network does not work without it")
    return {**weights, **new}


def _check_noise(path: Path, parent: NoiseInterval | None, region: NoiseInterval) -> None:
    if parent is not None and not contains(parent, region):
        raise ValueError(f"{path} was trained on noise {parent}, which does not contain {region}")


def _recorded_interval(path: Path) -> NoiseInterval | None:
    """The noise that weights were trained on, if `ediffi convert` has recorded it."""
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights {path} to start from")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(METADATA, "{}")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); ediffi convert makes one of others") from None
    try:
        record = plain_json.loads(metadata)
        return interval_from(record["interval"]) if "interval" in record else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} records a broken noise interval: {error}") from None
