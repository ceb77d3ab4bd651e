"""Evaluate the models of a reproduction: by the Toybox suite, by held-out losses, by the oracle."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ediffi.data.module import ShardData
from ediffi.diffusion.noise import LogNormal
from ediffi.evaluation.datasets.toybox.caption import Length
from ediffi.evaluation.results import Point, Results
from ediffi.evaluation.suite import Suite, read_suite
from ediffi.io.distributed import DistributedContext
from ediffi.pipeline.evaluation_run import Evaluation
from ediffi.pipeline.options import SamplingOptions
from ediffi.training.loss import sum_by_band, weighted_losses
from reproduction.directory import ReproductionDirectory

ALONE = DistributedContext()
BANDS = 8
"""Number of bands, equal shares of the training noise, with a loss each."""
DISTANCE = "frechet_clip"
FID = "fid"
EVERYTHING = "oracle/everything"


@dataclass(frozen=True)
class JudgingSettings:
    """How a model is evaluated.

    Attributes:
        count: how many held-out captions.
        length: of the captions.
        guidance_scales: each of them is evaluated; empty for the model's own.
    """

    count: int
    length: Length = "short"
    guidance_scales: Sequence[float] = ()


def judge(repro: ReproductionDirectory, name: str, model: Path | str, settings: JudgingSettings) -> Sequence[Point]:
    """The metrics of the suite "toybox" on a model's images at 64², a point for each guidance scale.

    With the weights of Inception, also the FID of the same images. Resumes an evaluation that was interrupted.

    Args:
        repro: has the images and results under `name`.
        name: of the evaluation.
        model: a model folder, or a name.
        settings: how many captions, which, and at which guidance.
    """
    changes = {"count": settings.count, "guidance_scales": list(settings.guidance_scales)}
    suite = replace(read_suite("toybox", **changes), dataset_options={"length": settings.length})
    place = repro.path("evaluations", f"{name}-{settings.length}")
    with repro.lock(place.name):
        if not (place / "results.json").is_file():
            evaluation = Evaluation(suite, place, None, repro.path("references", "toybox"), ALONE)
            with redirect_stdout(io.StringIO()):
                evaluation.judge_model(str(model), SamplingOptions())
        points = Results.read(place).points
        return points if repro.budget.inception is None else [_with_fid(repro, suite, place, point) for point in points]


def _with_fid(repro: ReproductionDirectory, suite: Suite, place: Path, point: Point) -> Point:
    """A point with the distance of its images in Inception's features."""
    fid = place / "inception" / point.name
    if not (fid / "results.json").is_file():
        suite = replace(suite, feature_extractor="inception-v3-compat", feature_weights=repro.budget.inception)
        references = repro.path("references", "inception")
        with redirect_stdout(io.StringIO()):
            Evaluation(suite, fid, None, references, ALONE, clip_score=False).judge_images(place / point.name)
    (judged,) = Results.read(fid).points
    return replace(point, metrics={**point.metrics, FID: judged.metrics[FID]})


@torch.inference_mode()
def band_losses(denoiser: Any, noise: LogNormal, shards: Path, resolution: int, scenes: int) -> list[float]:
    """Mean weighted loss in each band of the training noise on held-out scenes; the same noise whoever is settings.

    Args:
        denoiser: of a base stage, with its `loss_weight`.
        noise: whose bands, equal shares from the least noisy on.
        shards: of the held-out scenes.
        resolution: side of the images.
        scenes: how many samples, in batches of 50.
    """
    data = ShardData(shards, shards, image_size=resolution, batch_size=50)
    sigmas, losses = [], []
    for read in islice(data.train_dataloader(), max(1, scenes // 50)):
        batch = read.float()
        generator = torch.Generator().manual_seed(batch.index)
        sigmas.append(noise.sample(len(batch.images), generator))
        drawn = torch.randn(batch.images.shape, generator=generator)
        losses.append(weighted_losses(denoiser, batch.images, drawn, sigmas[-1], batch.cond))
    sums, counts = sum_by_band(torch.cat(losses), torch.cat(sigmas), noise, BANDS)
    return (sums / counts.clamp(min=1)).tolist()
