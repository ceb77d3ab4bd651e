"""The code of docs/train.md: train a stage from Python, once and with several learning rates."""

from pathlib import Path

import lightning as L
import torch

from ediffi import Cascade
from ediffi.data.module import ShardData
from ediffi.hub.config import Part
from ediffi.hub.models import SHIPPED
from ediffi.registry import denoisers
from ediffi.training.callbacks.ema import EMA
from ediffi.training.growth.compose import StageRecipe, compose
from ediffi.training.lightning_module import DiffusionStage

ENCODERS = {
    "t5": Part("t5", {"path": "encoders/t5"}),
    "clip_text": Part("clip_text", {"path": "encoders/clip"}),
    "clip_image": Part("clip_image", {"path": "encoders/clip"}),
}


def train(data: Path, run: Path, max_steps: int = 2000, lr: float = 1e-3, **network: int) -> float:
    """Train on the shards in `data/train`; returns the loss of the averaged weights on `data/val`."""
    L.seed_everything(0)
    denoiser = denoisers.create("unet_toybox", sigma_data=0.6, **network)
    stage = DiffusionStage(denoiser, optimizer=lambda weights: torch.optim.AdamW(weights, lr=lr))
    shards = ShardData(data / "train", data / "val", image_size=16, batch_size=32)
    trainer = L.Trainer(default_root_dir=run, max_steps=max_steps, callbacks=[EMA(0.999)], limit_val_batches=8)
    trainer.fit(stage, shards)
    trainer.save_checkpoint(run / "checkpoints" / "last.ckpt")
    return trainer.validate(stage, shards)[0]["val/loss"]


def sweep(data: Path, runs: Path, rates: list[float], **settings: int) -> Cascade:
    """A cascade of one stage, from the run with the lowest loss; its folder is `runs/model`."""
    losses = {rate: train(data, runs / f"lr-{rate:g}", lr=rate, **settings) for rate in rates}
    best = StageRecipe("base", resolution=16, run=runs / f"lr-{min(rates, key=losses.__getitem__):g}")
    return Cascade.from_pretrained(compose(runs / "model", "mine", [best], ENCODERS, SHIPPED / "toybox" / "encoders"))
