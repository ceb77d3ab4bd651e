"""The LightningModule that trains a denoiser: of the base stage, or with a `LowResolution`, of super-resolution."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ediffi.data.stream import Batch
from ediffi.diffusion.low_res import LowResolution, augment
from ediffi.diffusion.noise import ROOT, Complement, Interval, LogNormal, NoiseInterval, overlap
from ediffi.registry import encoders
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.random import STATES, generators, randn
from ediffi.registry.types import Conditioning
from ediffi.training import checkpoint as checkpoints
from ediffi.training.callbacks.non_finite import SampleLosses, SkipNonFinite
from ediffi.training.lora import Lora
from ediffi.training.one_cycle import over

DROPOUT = encoders.default_dropout()
BANDS = 4


def paper_adamw(parameters: Any) -> torch.optim.Optimizer:
    """AdamW with the paper's constants (eDiff-I, table 7)."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, betas=(0.9, 0.999), fused=True)


class DiffusionStage(L.LightningModule):
    """Trains one denoiser: `E[lambda(sigma)·|D(y + n; sigma, cond) - y|²]` (EDM, equation 2 and table 1).

    An expert is trained on its own part of the noise only: `interval` (eDiff-I, section 4.1). Its checkpoints carry it,
    and a run that loads one takes it from there.

    Noise, dropout and degradation of a sample are drawn from the seed and its position in the run alone. So a resumed
    run draws what the unbroken one would have drawn, and any number of processes draws what one would.

    Args:
        denoiser: a preconditioned network with `loss_weight(sigma)`.
        noise: distribution of the training noise.
        interval: the part of the noise to train on; the checkpoint's, or all noise, by default.
        low_res: makes the low-resolution input, for super-resolution, or adds the noise to one that the data brings;
            None for the base stage.
        dropout: probability of dropping each source, each independently (eDiff-I, section 4.2).
        optimizer: from the parameters to the optimiser; AdamW of table 7 by default.
        lr_scheduler: from the optimiser to its schedule, stepped after every step; None for a constant rate.
        seed: of noise, dropout and degradation.
        compile: run the network through `torch.compile`; the names in its checkpoints stay.

    Raises:
        ValueError: a probability is out of [0, 1].
    """

    def __init__(
        self,
        denoiser: Preconditioned,
        noise: LogNormal = LogNormal(),  # noqa: B008  (frozen)
        interval: Interval | Complement | None = None,
        low_res: LowResolution | None = None,
        dropout: dict[str, float] = DROPOUT,
        optimizer: OptimizerCallable = paper_adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        for name, probability in dropout.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"dropout of {name} must be in [0, 1], got {probability}")
        self.denoiser = denoiser.to(memory_format=torch.channels_last)
        self.noise, self.interval, self.low_res, self.dropout, self.seed = noise, interval, low_res, dropout, seed
        self.parent: NoiseInterval | None = None
        self.lora: Lora | None = None
        self._optimizer, self._lr_scheduler, self._compile = optimizer, lr_scheduler, compile
        self.seen: list[SampleLosses] = []

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
    def region(self) -> NoiseInterval:
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
        trained = checkpoints.parse({"state_dict": {}, **checkpoint})  # fsdp has taken the weights out already
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
            "lr_scheduler": {
                "scheduler": over(self._lr_scheduler, optimizer, self.trainer.max_steps),
                "interval": "step",
            },
        }

    def configure_callbacks(self) -> list[L.Callback]:
        """No stage is trained without the callback that skips steps which are not finite."""
        given = any(isinstance(callback, SkipNonFinite) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [] if given else [SkipNonFinite()]

    def on_train_start(self) -> None:
        """Compile in place, so that neither the names of the weights nor the averaged copy know of it."""
        if self._compile:
            self.denoiser.network.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss of a batch."""
        generators = self._generators(batch, training=True)
        cond = drop_sources(batch.cond, self.dropout, generators)
        sigma, losses = self._losses(batch.images, cond, generators)
        self.seen.append(SampleLosses(batch.keys, sigma, losses.detach()))
        loss = losses.mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(losses))
        self._log_bands("train", sigma, losses.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on the stage's own noise, and on each quarter of all training noise, the least noisy first."""
        sigma, losses = self._losses(batch.images, batch.cond, self._generators(batch, training=False))
        self.log("val/loss", losses.mean(), prog_bar=True, sync_dist=True, batch_size=len(losses))
        self._log_bands("val", sigma, losses)

    def _losses(
        self, images: Float[Tensor, "b 3 h w"], cond: Conditioning, generators: list[torch.Generator]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Noise levels, on the CPU, and weighted losses, where the pictures are."""
        if self.low_res is not None or cond.low_res is not None:
            cond = cond.with_low_res(*low_resolution(self.low_res, images, cond.low_res, generators))
        drawn = torch.cat([self.noise.sample(1, generator, self.region) for generator in generators])
        noise = randn(images.shape, generators, images.device)
        sigma = drawn.to(images.device)
        denoised = self.denoiser(images + sigma.view(-1, 1, 1, 1) * noise, sigma, cond)
        errors = (denoised - images).square().flatten(1).mean(1)
        return drawn, self.denoiser.loss_weight(sigma) * errors

    def _log_bands(self, part: str, sigma: Float[Tensor, " b"], losses: Float[Tensor, " b"]) -> None:
        """The loss on each quarter of all training noise that the stage has noise of; every process logs the same."""
        band = torch.bucketize(sigma, self.noise.quantile(torch.arange(1, BANDS) / BANDS))
        for index in range(BANDS):
            chosen = (band == index).nonzero()[:, 0].to(losses.device)
            validating = part == "val"
            if len(chosen) or (validating and overlap(self.region, Interval(BANDS.bit_length() - 1, index))):
                mean = losses[chosen].sum() / max(1, len(chosen))
                self.log(f"{part}/loss_band{index}", mean, sync_dist=validating, batch_size=len(chosen))

    def _generators(self, batch: Batch, training: bool) -> list[torch.Generator]:
        """Randomness of each sample: a function of (seed, position in the run), apart in training and validation."""
        size = len(batch.images)
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self._trainer else (1, 0)
        first = (batch.index * world_size + rank) * size
        return generators(2 * self.seed + training, (position % STATES for position in range(first, first + size)))


def drop_sources(
    cond: Conditioning, dropout: Mapping[str, float], generators: Sequence[torch.Generator]
) -> Conditioning:
    """Drop each source of each sample with its own probability, independently; a source not named is kept."""
    names = sorted(cond.sources)
    drawn = torch.stack([torch.rand(len(names), generator=generator) for generator in generators])
    for name, draws in zip(names, drawn.T, strict=True):
        cond = cond.drop(name, (draws < dropout.get(name, 0.0)).to(cond.sources[name].mask.device))
    return cond


def low_resolution(
    low_res: LowResolution | None,
    images: Float[Tensor, "b 3 H W"],
    given: Float[Tensor, "b 3 h w"] | None,
    generators: Sequence[torch.Generator],
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]]:
    """The low-resolution pictures of a batch with their noise, and its level [b]; each from its own generator.

    Args:
        low_res: how they are made, and how noisy.
        images: the training pictures.
        given: low-resolution pictures that the data brought, degraded already; None to make them.
        generators: one a picture.

    Raises:
        ValueError: pictures are given to a stage without `low_res`, or are of another size than its `scale` says.
    """
    if low_res is None:
        raise ValueError("the data brings low-resolution pictures, and the stage has no low_res that says how noisy")
    if given is None:
        made = [low_res(image[None], generator) for image, generator in zip(images, generators, strict=True)]
        return torch.cat([picture for picture, _ in made]), torch.cat([level for _, level in made])
    size = [side // low_res.scale for side in images.shape[2:]]
    if list(given.shape[2:]) != size:
        raise ValueError(
            f"the data brings low-resolution pictures of {given.shape[3]}x{given.shape[2]}, and the stage enlarges "
            f"{size[1]}x{size[0]} (scale {low_res.scale})"
        )
    level = low_res.max_aug_level * torch.cat([torch.rand(1, generator=generator) for generator in generators])
    noise = randn(given.shape, list(generators), given.device)
    level = level.to(given.device)
    return augment(given, level, noise), level
