"""The first weights of a run: random, or those of a parent, trained whole or with an adapter."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import safetensors

from ediffi.diffusion.noise import NoiseInterval, contains, interval_from
from ediffi.diffusion.weights import load_weights
from ediffi.io import plain_json
from ediffi.pipeline.checkpoint import load_expert
from ediffi.registry import denoisers
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.training import checkpoint as checkpoints
from ediffi.training import lora
from ediffi.training.convert import METADATA
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.lora import Lora


@dataclass(frozen=True)
class InitialWeights:
    """Where a run takes its first weights from, and which of them it trains.

    Args:
        checkpoint: a training checkpoint; its averaged weights are taken.
        model: instead, a cascade: the shipped "toybox", a folder, or ORG/REPO of the Hub.
        stage: of `model`, and with it; the expert that owns the run's noise is taken.
        weights: instead, a safetensors file of the whole denoiser, as `ediffi convert` writes it.
        lora: train a low-rank adapter instead of all weights.
    """

    checkpoint: Path | None = None
    model: str | None = None
    stage: str | None = None
    weights: Path | None = None
    lora: Lora = field(default_factory=Lora)

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.checkpoint, self.model, self.weights)) > 1:
            raise ValueError("a run starts from one of checkpoint, model and weights, not from several")
        if (self.model is None) != (self.stage is None):
            raise ValueError(f"model and stage go together, got model {self.model!r} and stage {self.stage!r}")

    @property
    def named(self) -> bool:
        """Whether it names weights; else they are random."""
        return (self.checkpoint or self.model or self.weights) is not None

    def __call__(self, module: DiffusionStage) -> None:
        """Load the parent's weights into a stage, record the parent, and add the adapter.

        ValueError if the weights are broken, of another architecture, or of noise that does not contain the stage's.
        """
        if self.checkpoint is not None:
            _load_checkpoint(self.checkpoint, module)
        elif self.weights is not None:
            module.parent = _recorded_interval(self.weights)
            _check_noise(self.weights, module.parent, module.region)
            load_weights(module.denoiser, self.weights)
        elif self.model is not None and self.stage is not None:
            module.parent = load_expert(self.model, self.stage, module.region, module.denoiser)
        if self.lora.rank:
            module.lora = self.lora
            lora.add(module.denoiser, self.lora)


def _load_checkpoint(path: Path, module: DiffusionStage) -> None:
    """Load the averaged weights of a checkpoint, an adapter merged into them, and record the parent."""
    trained = checkpoints.read(path)
    _check_noise(path, trained.expert.interval, module.region)
    _check_network(path, trained, module.denoiser)
    module.parent = trained.expert.interval
    weights = trained.weights
    try:
        if trained.lora is not None:
            weights = lora.merged(copy.deepcopy(module.denoiser), trained.lora, weights)
        module.denoiser.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(f"{path} has the weights of another network than the recipe's denoiser") from None


def _check_network(path: Path, trained: checkpoints.ExpertCheckpoint, denoiser: Preconditioned) -> None:
    """ValueError if the weights fit, but mean something else; earlier versions do not record their network."""
    part = None if trained.stage is None else trained.stage.denoiser
    if part is None or denoiser.made_by is None or part.name not in denoisers.REGISTRY:
        return
    theirs, ours = denoisers.architecture(part.name, part.arguments), denoisers.architecture(*denoiser.made_by)
    if theirs[0] == ours[0] and (different := [key for key in ours[1] if theirs[1].get(key) != ours[1][key]]):
        key = different[0]
        raise ValueError(
            f"{path} has the weights of another network than the recipe's denoiser: its {key} is "
            f"{theirs[1].get(key)}, the recipe's {ours[1][key]}"
        )


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
