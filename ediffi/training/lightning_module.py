"""The LightningModule that trains the denoiser of one stage, base or super-resolution."""

import copy
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ediffi.data.module import ShardData
from ediffi.data.stream import Batch
from ediffi.diffusion.low_res import LowResolution
from ediffi.diffusion.noise import ROOT, Complement, Interval, LogNormal, NoiseInterval
from ediffi.hub.config import Part
from ediffi.io.recipes import building
from ediffi.pipeline.checkpoint import build_denoiser
from ediffi.pipeline.stage import Sampling
from ediffi.registry.denoisers.conditioning import widths
from ediffi.registry.denoisers.layers import compile_parts
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.random import Philox, randn
from ediffi.registry.types import Conditioning
from ediffi.training import checkpoint as checkpoints
from ediffi.training.band_losses import BandLosses, MeanLosses
from ediffi.training.callbacks.non_finite import SampleLosses, SkipNonFinite
from ediffi.training.callbacks.optimizer_settings import OptimizerSettings
from ediffi.training.finished_run import read_run
from ediffi.training.lora import Lora
from ediffi.training.loss import check_sources, drop_sources, dropout_of, low_resolution, weighted_losses
from ediffi.training.one_cycle import in_steps
from ediffi.training.sharded_checkpoint import finish_saving
from ediffi.training.sharding import match_memory, prepare, prepare_fsdp2

logger = logging.getLogger(__name__)
TOKENS = 32
"""Compiled networks see captions of multiples of this many tokens; cross-attention is compiled once for each."""
SHOW_EVERY = 5.0
"""Seconds after which the progress bar gets a loss between two steps that are logged."""
BANDS = 4
"""Equal shares of the training noise whose losses are logged; a power of two, so that each is a node of the tree."""


def paper_adamw(parameters: Any) -> torch.optim.Optimizer:
    """AdamW with the paper's constants (eDiff-I, table 7)."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, betas=(0.9, 0.999), fused=True)


class DiffusionStage(L.LightningModule):
    """Trains one denoiser: `E[lambda(sigma)·|D(y + n; sigma, cond) - y|²]` (EDM, equation 2 and table 1).

    An expert trains on its own part of the noise, `interval` (eDiff-I, section 4.1). Its checkpoints record it, and a
    run that resumes from one takes it from there.

    Noise, dropout and degradation of a sample depend on the seed and the position of the sample in the run only. So a
    resumed run draws what the uninterrupted one would have drawn, and any number of processes draws what one would.

    Args:
        denoiser: a preconditioned network.
        noise: distribution of the training noise.
        interval: part of the noise to train on; by default the checkpoint's, or all noise.
        low_res: degrades the low-resolution input of super-resolution, and adds its noise; None for the base stage.
        dropout: probability in [0, 1] of dropping each source of the data, each independently (eDiff-I, section 4.2);
            None for what its encoder declares, or the paper's for texts and for images.
        optimizer: from the parameters to the optimiser; AdamW of table 7 by default.
        lr_scheduler: from the optimiser to its schedule, stepped after each step; None for a constant rate.
        seed: of noise, dropout and degradation in training; None for the run's `seed_everything`, in Python for 0.
            Validation has the same noise with every seed, so that losses can be compared.
        compile: run the parts of the network (`compile_parts`) and the draws of noise through `torch.compile`; the
            names in its checkpoints stay.
    """

    def __init__(
        self,
        denoiser: Preconditioned,
        noise: LogNormal = LogNormal(),  # noqa: B008  (frozen)
        interval: Interval | Complement | None = None,
        low_res: LowResolution | None = None,
        dropout: dict[str, float] | None = None,
        optimizer: OptimizerCallable = paper_adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        for name, probability in (dropout or {}).items():
            if not 0 <= probability <= 1:
                raise ValueError(f"dropout of {name} must be in [0, 1], got {probability}")
        self.denoiser = denoiser.to(memory_format=torch.channels_last)  # the fast layout of convolutions on GPUs
        self.noise, self.interval, self.low_res, self.dropout, self.seed = noise, interval, low_res, dropout, seed
        self.parent: NoiseInterval | None = None
        self.lora: Lora | None = None
        self._optimizer, self._lr_scheduler, self._compile = optimizer, lr_scheduler, compile
        self.batches_of_step: list[SampleLosses] = []
        """What `SkipNonFinite` reads at each optimiser step, and clears if it skips the step."""
        self.train_losses, self.val_losses = BandLosses(noise, BANDS), BandLosses(noise, BANDS)
        self._dropout: dict[str, float] | None = None
        self._step, self._shown_at = 0, float("-inf")

    def __deepcopy__(self, memo: dict[int, Any]) -> "DiffusionStage":
        """Copy without the trainer, for the averaging callbacks.

        What makes the optimiser is shared: LightningCLI's refers to the trainer, which cannot be copied once it has
        started processes.
        """
        copied = memo[id(self)] = self.__class__.__new__(self.__class__)
        shared = {"_trainer": None, "_optimizer": self._optimizer, "_lr_scheduler": self._lr_scheduler}
        copied.__dict__ |= shared | {k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k not in shared}
        return copied

    @property
    def region(self) -> NoiseInterval:
        """The part of the noise that it trains on."""
        return self.interval or ROOT

    def setup(self, stage: str) -> None:
        """Check that the recipe goes with its strategy; ValueError if it does not."""
        if stage == "fit":
            prepare(self.trainer, self)
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            prepare_fsdp2(self.trainer, self.trainer.strategy, self, self.denoiser)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: str | torch.device | None = None, **settings: Any
    ) -> "DiffusionStage":
        """The stage of a checkpoint, or run directory, with its averaged weights, noise and interval, where Lightning's
        own call finds no hyper-parameters.

        Optimiser, dropout and degradation are not in a checkpoint: `settings` are arguments of the class, in place of
        its defaults. ValueError if the denoiser is not registered, or none of `settings` and of another architecture.
        """
        trained = read_run(Path(checkpoint_path))
        expert, weights = trained.expert.expert, trained.expert.weights
        assert not isinstance(weights, Path)  # those of a run are in memory
        given = {"denoiser": build_denoiser(trained.denoiser), "noise": trained.noise, "interval": expert.interval}
        stage = cls(**{**given, **settings})
        checkpoints.check_network(weights, stage.denoiser.state_dict())
        stage.denoiser.load_state_dict(dict(weights))
        stage.parent = expert.parent
        return stage.to(map_location)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record noise, interval, parent and adapter, and what composing a model needs to know."""
        record = self._record(self._trainer) if self._trainer else None
        checkpoint[checkpoints.KEY] = checkpoints.describe(self.noise, self.region, self.parent, self.lora, record)

    def _record(self, trainer: L.Trainer) -> checkpoints.StageRecord:
        """Network, size and sampling, the latter those of the run's `SampleGrid`."""
        data: Any = getattr(trainer, "datamodule", None)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        given = [one.sampling for one in callbacks if isinstance(getattr(one, "sampling", None), Sampling)]
        return checkpoints.StageRecord(
            None if self.denoiser.made_by is None else Part(*self.denoiser.made_by),
            self.low_res is not None,
            data.transform.size if isinstance(data, ShardData) else None,
            trainer.max_steps,
            given[0] if given else Sampling(),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take interval and parent from the checkpoint; ValueError if the recipe has another interval or network, or a
        run is to go on from weights alone. Validation is on the noise of the recipe, and tells if that is another."""
        trained = checkpoints.parse({"state_dict": {}, **checkpoint})  # fsdp removes the weights first
        if "state_dict" in checkpoint:
            checkpoints.check_network(checkpoint["state_dict"], self.state_dict())
        try:
            checkpoints.check_meaning(trained.stage, self.denoiser.made_by)
        except ValueError as error:
            raise ValueError(f"the checkpoint is of another network than the recipe's: {error}") from None
        fits = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if fits and "optimizer_states" not in checkpoint:
            advice = "begin another run with it, by --start.checkpoint"
            raise ValueError(
                f"the checkpoint has weights only (save_weights_only), so no run goes on from it: {advice}"
            )
        if not fits and trained.noise != self.noise:
            logger.warning("the loss is on noise %s, and the checkpoint was trained on %s", self.noise, trained.noise)
        if self.interval not in (None, trained.expert.interval):
            raise ValueError(f"the checkpoint is of noise {trained.expert.interval}, this run of {self.interval}")
        self.interval, self.parent = trained.expert.interval, trained.expert.parent

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule in steps."""
        with building():
            return in_steps(self._optimizer(self.parameters()), self._lr_scheduler, self.trainer.max_steps)

    def configure_callbacks(self) -> list[L.Callback]:
        """Add `OptimizerSettings`, and `SkipNonFinite` with its defaults unless the recipe has one."""
        given = any(isinstance(callback, SkipNonFinite) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [OptimizerSettings(), *([] if given else [SkipNonFinite()])]

    def on_train_start(self) -> None:
        """Compile in place, so that the names of the weights and the averaged copy stay as they are."""
        match_memory(self.trainer.optimizers)
        self._step = self.trainer.global_step
        if self._compile:
            compile_parts(self.denoiser.network)

    def on_fit_end(self) -> None:
        """Wait for a checkpoint that is being written."""
        finish_saving(self.trainer.strategy)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss of a batch; ValueError at the first if its sources are not those of recipe and network."""
        randomness = self._randomness(batch, "training")
        if self._dropout is None:  # the first batch
            self._dropout = dropout_of(batch.cond.sources, widths(self), self.dropout)
        cond = drop_sources(batch.cond, self._dropout, randomness.of("dropout"))
        sigma, losses = self._losses(batch.images, cond, randomness)
        self.batches_of_step.append(SampleLosses(batch.keys, sigma, losses.detach()))
        return losses.mean()

    def on_train_batch_end(self, *args: Any) -> None:
        """Count the losses of a step that was not skipped, and log their means when a step is logged."""
        step, now = self.trainer.global_step, time.monotonic()
        if step == self._step:  # a batch of several in a step
            return
        self._step = step
        self.count(self.batches_of_step)
        self.batches_of_step = []
        logs = step % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if (logs or now - self._shown_at > SHOW_EVERY) and (means := self.train_losses.means()):
            self._shown_at = now
            self._log("train", means)
            if logs:
                self.train_losses.clear()

    def count(self, batches: Sequence[SampleLosses]) -> None:
        """Count the losses of the batches of a step."""
        for batch in batches:
            self.train_losses.add(batch.losses, batch.sigma)

    def on_validation_start(self) -> None:
        """Validate, and sample grids, without the compiler, which would take longer for these few batches."""
        if self._compile:
            torch.compiler.set_stance("force_eager")

    def on_validation_end(self) -> None:
        """Go on with the compiled network; callbacks have had their turn before."""
        if self._compile:
            torch.compiler.set_stance("default")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the losses of a batch; ValueError at the first if it lacks a source that the network reads."""
        if batch_idx == 0:
            check_sources(batch.cond.sources, widths(self))
        sigma, losses = self._losses(batch.images, batch.cond, self._randomness(batch, "validation"))
        self.val_losses.add(losses, sigma)

    def on_validation_epoch_end(self) -> None:
        """Log the loss on the noise of the stage, and on each quarter of all training noise, over all processes."""
        if means := self.val_losses.means(self.trainer.strategy if self._trainer else None):
            self._log("val", means)
        self.val_losses.clear()

    def _losses(
        self, images: Float[Tensor, "b 3 h w"], cond: Conditioning, randomness: Philox
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Noise levels, on the CPU, and weighted losses, on the device of the images."""
        if self.low_res is not None or cond.low_res is not None:
            cond = cond.with_low_res(*low_resolution(self.low_res, images, cond.low_res, randomness.of("low_res")))
        if self._compile and self.training:
            cond = cond.padded(TOKENS)
        sigma = self.noise.sample(len(images), randomness.of("sigma"), self.region)
        noise = randn(images.shape, randomness.of("noise"), images.device)
        on_device = sigma.to(images.device, non_blocking=True)
        return sigma, weighted_losses(self.denoiser, images, noise, on_device, cond)

    def _log(self, part: str, means: MeanLosses) -> None:
        """As tensors on the CPU: the progress bar reads what it shows at every step. Losses of a validation are of all
        processes already, and Lightning warns unless it averages them again."""
        synchronised = part == "val"
        self.log(f"{part}/loss", torch.tensor(means.loss), prog_bar=True, sync_dist=synchronised)
        for band, loss in means.bands.items():
            self.log(f"{part}/loss_band{band}", torch.tensor(loss), sync_dist=synchronised)

    def _randomness(self, batch: Batch, purpose: str) -> Philox:
        """The random numbers of a batch, from the seed and the positions of its samples in the run."""
        size = len(batch.images)
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self._trainer else (1, 0)
        first = (batch.index * world_size + rank) * size  # processes take turns, batch by batch
        seed = (self.seed or 0) if purpose == "training" else 0
        return Philox(seed, range(first, first + size), purpose, self._compile and purpose == "training")
