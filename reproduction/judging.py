"""How the models of a reproduction are judged: by the Toybox suite, by held-out losses, by the oracle."""

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
from ediffi.evaluation.images.generate import alone
from ediffi.evaluation.results import Point, Results
from ediffi.evaluation.suite import Suite, read_suite
from ediffi.io.distributed import DistributedContext
from ediffi.pipeline.evaluation_run import Evaluation
from ediffi.pipeline.options import SamplingOptions
from ediffi.training.loss import sum_by_band, weighted_losses
from reproduction.workshop import Workshop

ALONE = DistributedContext(0, 1, "cpu", alone)
BANDS = 8
"""Equal shares of the training noise that losses are told for."""
DISTANCE = "frechet_clip"
FID = "fid"
EVERYTHING = "oracle/everything"


@dataclass(frozen=True)
class Asked:
    """What a model is asked.

    Attributes:
        count: how many held-out captions.
        length: of the captions.
        guidance_scales: each of which is judged; none for the model's own.
    """

    count: int
    length: Length = "short"
    guidance_scales: Sequence[float] = ()


def judge(shop: Workshop, name: str, model: Path | str, asked: Asked) -> Sequence[Point]:
    """What the suite "toybox" measures of a model's pictures at 64², a point for each guidance; gone on with.

    Given the weights of Inception, of the same pictures also the FID.

    Args:
        shop: keeps pictures and results under `name`.
        name: of the evaluation.
        model: a model folder, or a name.
        asked: how many captions, which, and at which guidance.
    """
    changes = {"count": asked.count, "guidance_scales": list(asked.guidance_scales)}
    suite = replace(read_suite("toybox", **changes), dataset_options={"length": asked.length})
    place = shop.path("evaluations", f"{name}-{asked.length}")
    with shop.alone_at(place.name):
        if not (place / "results.json").is_file():
            evaluation = Evaluation(suite, place, None, shop.path("references", "toybox"), ALONE)
            with redirect_stdout(io.StringIO()):
                evaluation.judge_model(str(model), SamplingOptions())
        points = Results.read(place).points
        return points if shop.budget.inception is None else [_with_fid(shop, suite, place, point) for point in points]


def _with_fid(shop: Workshop, suite: Suite, place: Path, point: Point) -> Point:
    """A point with the distance of its pictures in Inception's features."""
    fid = place / "inception" / point.name
    if not (fid / "results.json").is_file():
        suite = replace(suite, feature_extractor="inception-v3-compat", feature_weights=shop.budget.inception)
        references = shop.path("references", "inception")
        with redirect_stdout(io.StringIO()):
            Evaluation(suite, fid, None, references, ALONE, clip_score=False).judge_images(place / point.name)
    (judged,) = Results.read(fid).points
    return replace(point, metrics={**point.metrics, FID: judged.metrics[FID]})


@torch.inference_mode()
def band_losses(denoiser: Any, noise: LogNormal, shards: Path, resolution: int, scenes: int) -> list[float]:
    """Mean weighted loss in each band of the training noise on held-out scenes; the same noise whoever is asked.

    Args:
        denoiser: of a base stage, with its `loss_weight`.
        noise: whose bands, equal shares from the least noisy on.
        shards: of the held-out scenes.
        resolution: side of the pictures.
        scenes: how many samples are asked for, in batches of 50.
    """
    data = ShardData(shards, shards, image_size=resolution, batch_size=50)
    sigmas, losses = [], []
    for batch in islice(data.train_dataloader(), max(1, scenes // 50)):
        generator = torch.Generator().manual_seed(batch.index)
        sigmas.append(noise.sample(len(batch.images), generator))
        drawn = torch.randn(batch.images.shape, generator=generator)
        losses.append(weighted_losses(denoiser, batch.images, drawn, sigmas[-1], batch.cond))
    sums, counts = sum_by_band(torch.cat(losses), torch.cat(sigmas), noise, BANDS)
    return (sums / counts.clamp(min=1)).tolist()
