"""How a run begins that does not begin at random: from its parent's weights, fully trainable or with an adapter."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

from ediffi import folder
from ediffi.growth import checkpoint as checkpoints
from ediffi.growth import lora
from ediffi.growth.lora import Lora
from ediffi.noise import contains
from ediffi.stages.diffusion_stage import DiffusionStage


@dataclass(frozen=True)
class Start:
    """Where a run takes its first weights from, and what of them it trains.

    Args:
        checkpoint: a training checkpoint; its averaged weights are taken.
        model: instead, a cascade: the shipped "toybox", or a folder.
        stage: of `model`; the expert that owns the run's noise is taken.
        lora: train a low-rank adapter instead of all weights.

    Raises:
        ValueError: both `checkpoint` and `model` are given, or one of `model` and `stage` without the other.
    """

    checkpoint: Path | None = None
    model: str | None = None
    stage: str | None = None
    lora: Lora = field(default_factory=Lora)

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.model is not None:
            raise ValueError("a run starts from a checkpoint or from a model, not from both")
        if (self.model is None) != (self.stage is None):
            raise ValueError(f"model and stage go together, got model {self.model!r} and stage {self.stage!r}")

    def __call__(self, module: DiffusionStage) -> None:
        """Load the parent's weights into a stage and note the parent; add the adapter.

        Raises:
            FileNotFoundError: the checkpoint or the model is missing.
            ValueError: it is broken, of another architecture, or no expert of it owns all of the stage's noise.
        """
        if self.checkpoint is not None:
            trained = checkpoints.read(self.checkpoint)
            if not contains(trained.expert.region, module.region):
                raise ValueError(
                    f"{self.checkpoint} was trained on noise {trained.expert.region}, which lacks {module.region}"
                )
            module.parent = trained.expert.region
            weights = trained.weights
            try:
                if trained.lora is not None:
                    weights = lora.merged(copy.deepcopy(module.denoiser), trained.lora, weights)
                module.denoiser.load_state_dict(weights)
            except RuntimeError:
                raise ValueError(
                    f"{self.checkpoint} does not hold the weights of the network it is for, but of another"
                ) from None
        elif self.model is not None and self.stage is not None:
            module.parent = folder.load_expert(self.model, self.stage, module.region, module.denoiser)
        if self.lora.rank:
            module.lora = self.lora
            lora.add(module.denoiser, self.lora)
