"""The LightningModule that trains a denoiser: of the base stage, or with a `LowResolution`, of super-resolution."""

import copy
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ediffi.data.stream import Batch
from ediffi.growth import checkpoint as checkpoints
from ediffi.growth.lora import Lora
from ediffi.low_res import LowResolution
from ediffi.noise import ROOT, Complement, Interval, LogNormal, Region
from registry.denoisers.precondition import Preconditioned
from registry.types import Conditioning

PAPER_DROPOUT = {"clip_text": 0.2, "t5": 0.25, "clip_image": 0.9}
BANDS = 4


def paper_adamw(parameters: Any) -> torch.optim.Optimizer:
    """AdamW with the paper's constants (eDiff-I, table 7)."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, betas=(0.9, 0.999), fused=True)


class NonFiniteLossError(ValueError):
    """The loss is NaN or infinite: training has diverged."""


class DiffusionStage(L.LightningModule):
    """Trains one denoiser: `E[lambda(sigma)·|D(y + n; sigma, cond) - y|²]` (EDM, equation 2 and table 1).

    An expert is trained on its own part of the noise only: `interval` (eDiff-I, section 4.1). Its checkpoints carry it,
    and a run that loads one takes it from there.

    Noise, dropout and degradation are drawn from (seed, rank, batch index) alone, so that a resumed run draws what the
    unbroken one would have drawn.

    Args:
        denoiser: a preconditioned network with `loss_weight(sigma)`.
        noise: distribution of the training noise.
        interval: the part of the noise to train on; the checkpoint's, or all noise, by default.
        low_res: makes the low-resolution input, for super-resolution; None for the base stage.
        dropout: probability of dropping each source, each independently (eDiff-I, section 4.2).
        optimizer: from the parameters to the optimiser; AdamW of table 7 by default.
        lr_scheduler: from the optimiser to its schedule, stepped after every step; None for a constant rate.
        seed: of noise, dropout and degradation.

    Raises:
        ValueError: a probability is out of [0, 1].
    """

    def __init__(
        self,
        denoiser: Preconditioned,
        noise: LogNormal = LogNormal(),  # noqa: B008  (frozen)
        interval: Interval | Complement | None = None,
        low_res: LowResolution | None = None,
        dropout: dict[str, float] = PAPER_DROPOUT,
        optimizer: OptimizerCallable = paper_adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, probability in dropout.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"dropout of {name} must be in [0, 1], got {probability}")
        self.denoiser = denoiser.to(memory_format=torch.channels_last)
        self.noise, self.interval, self.low_res, self.dropout, self.seed = noise, interval, low_res, dropout, seed
        self.parent: Region | None = None
        self.lora: Lora | None = None
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler

    def __deepcopy__(self, memo: dict[int, Any]) -> "DiffusionStage":
        """A copy that belongs to no trainer, as the averaging callback makes one.

        What makes the optimiser is shared: through the command line it knows the trainer, and one that has started
        processes cannot be copied.
        """
        copied = memo[id(self)] = self.__class__.__new__(self.__class__)
        shared = {"_trainer": None, "_optimizer": self._optimizer, "_lr_scheduler": self._lr_scheduler}
        copied.__dict__ |= shared | {k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k not in shared}
        return copied

    @property
    def region(self) -> Region:
        """The noise it is trained on."""
        return self.interval or ROOT

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is."""
        checkpoint[checkpoints.KEY] = checkpoints.describe(self.noise, self.region, self.parent, self.lora)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take interval and parent from the checkpoint.

        Raises:
            ValueError: this run was given another interval.
        """
        trained = checkpoints.parse(checkpoint)
        if self.interval not in (None, trained.expert.region):
            raise ValueError(f"the checkpoint is of noise {trained.expert.region}, this run of {self.interval}")
        self.interval, self.parent = trained.expert.region, trained.expert.parent

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule counted in steps."""
        optimizer = self._optimizer(self.parameters())
        if self._lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._lr_scheduler(optimizer), "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss of a batch.

        Raises:
            NonFiniteLossError: it is NaN or infinite.
        """
        generator = self._generator(batch.index, training=True)
        cond = drop_sources(batch.cond, self.dropout, generator)
        sigma, losses = self._losses(batch.images, cond, generator)
        loss = losses.mean()
        if not torch.isfinite(loss):
            worst = sigma[~torch.isfinite(losses)].tolist()
            raise NonFiniteLossError(
                f"the loss is {loss.item()} at step {self.global_step} (sigma {worst[:4]}); lower the learning rate, "
                "or resume from an earlier checkpoint"
            )
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on the stage's own noise, and on each quarter of all training noise, the least noisy first."""
        sigma, losses = self._losses(batch.images, batch.cond, self._generator(batch.index, training=False))
        self.log("val/loss", losses.mean(), prog_bar=True, sync_dist=True, batch_size=len(losses))
        edges = self.noise.quantile(torch.arange(1, BANDS) / BANDS).to(sigma)
        band = torch.bucketize(sigma, edges)
        for index in range(BANDS):
            chosen = losses[band == index]
            if len(chosen):
                self.log(f"val/loss_band{index}", chosen.mean(), sync_dist=True, batch_size=len(chosen))

    def _losses(
        self, images: Float[Tensor, "b 3 h w"], cond: Conditioning, generator: torch.Generator
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        if self.low_res is not None:
            cond = cond.with_low_res(*self.low_res(images, generator))
        sigma = self.noise.sample(len(images), generator, self.region).to(images.device)
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        denoised = self.denoiser(images + sigma.view(-1, 1, 1, 1) * noise, sigma, cond)
        errors = (denoised - images).square().flatten(1).mean(1)
        return sigma, self.denoiser.loss_weight(sigma) * errors

    def _generator(self, index: int, training: bool) -> torch.Generator:
        """Randomness of one batch: a function of (seed, rank, index), apart in training and validation."""
        entropy = [self.seed, self.global_rank, index, int(training)]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def drop_sources(cond: Conditioning, dropout: Mapping[str, float], generator: torch.Generator) -> Conditioning:
    """Drop each source of each sample with its own probability, independently; a source not named is kept."""
    for name, embedding in sorted(cond.sources.items()):
        dropped = torch.rand(len(embedding.mask), generator=generator) < dropout.get(name, 0.0)
        cond = cond.drop(name, dropped.to(embedding.mask.device))
    return cond
