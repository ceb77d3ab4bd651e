"""A grid of samples in TensorBoard, or in Weights & Biases, at every validation."""

import logging
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torchvision.utils import make_grid

from ediffi.data.stream import Batch
from ediffi.pipeline.stage import NotFiniteError, Sampling, Stage
from ediffi.registry.denoisers.precondition import upsample
from ediffi.registry.random import Philox
from ediffi.training.lightning_module import DiffusionStage

logger = logging.getLogger(__name__)

SHARDED = (FSDPStrategy, ModelParallelStrategy)


class SampleGrid(L.Callback):
    """Samples the captions of the first validation batch, with the averaged weights that validation uses.

    Rows: the images of the dataset; in super-resolution, the upsampled low-resolution images, which are the batch's own
    where `data.degradation` makes them; the samples. No grid
    under fsdp, where no process has all weights.

    Args:
        sampling: sampling options.
        num_images: columns of the grid, at least 1.
        seed: of the noise; the same at every validation.
    """

    def __init__(self, sampling: Sampling, num_images: int = 8, seed: int = 0) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.sampling, self.num_images, self.seed = sampling, num_images, seed

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *args: Any
    ) -> None:
        """Log the grid as the image "samples", and its captions as a text."""
        logged = any(isinstance(one, TensorBoardLogger | WandbLogger) for one in trainer.loggers)
        if batch_idx > 0 or not logged or not trainer.is_global_zero or isinstance(trainer.strategy, SHARDED):
            return
        assert isinstance(pl_module, DiffusionStage)
        try:
            rows = self._rows(pl_module, batch)
        except NotFiniteError as error:  # of a run that diverges; whether it ends is `SkipNonFinite`'s to say
            logger.warning("no grid of samples at step %d: %s", trainer.global_step, error)
            return
        grid = make_grid((torch.cat(rows).float().cpu().clamp(-1, 1) + 1) / 2, nrow=len(rows[0]))
        for one in trainer.loggers:
            _log(one, grid, "  \n".join(batch.captions[: self.num_images]), trainer.global_step)

    def _rows(self, module: DiffusionStage, batch: Batch) -> list[torch.Tensor]:
        images, cond = batch.images[: self.num_images], batch.cond[: self.num_images]
        low_res = cond.low_res
        if low_res is None and module.low_res is not None:
            low_res = F.avg_pool2d(images, module.low_res.scale)
        aug_level = None if low_res is None else 0.0
        stage = Stage("samples", images.shape[-1], module.denoiser, self.sampling, aug_level)
        samples = stage(cond, Philox(self.seed, range(len(images))), low_res=low_res)
        size = (images.shape[-2], images.shape[-1])
        return [images, samples] if low_res is None else [images, upsample(low_res, size), samples]


def _log(logger: Logger, grid: Float[torch.Tensor, "3 h w"], captions: str, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image("samples", grid, step)
        logger.experiment.add_text("captions", captions, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image("samples", [grid], step=step, caption=[captions])
