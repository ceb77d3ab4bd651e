"""How much closer to the truth a super-resolution stage comes than bicubic enlargement."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.io.images import to_tensor
from ediffi.pipeline.cascade import Cascade
from ediffi.registry.denoisers.precondition import upsample
from ediffi.registry.random import generators


def psnr(images: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB, `10·log10(2²/MSE)` for pictures in [-1, 1]."""
    return 10 * torch.log10(4 / (images - truth).square().flatten(1).mean(1))


def against_bicubic(cascade: Cascade, count: int = 50, seed: int = 0) -> Mapping[str, Mapping[str, float]]:
    """Mean PSNR of each super-resolution stage and of bicubic, on held-out scenes averaged down to the stage's input.

    Args:
        cascade: the model.
        count: how many scenes.
        seed: of the scenes and of the sampling noise.

    Returns:
        By stage: `stage` and `bicubic` in dB.
    """
    cases = prompts(seed, count)
    cond = cascade.encode([caption.text for _, caption in cases])
    results = {}
    for lower, stage in zip(cascade.stages, cascade.stages[1:], strict=False):
        size = stage.resolution
        truth = torch.stack([to_tensor(Image.fromarray(render(scene, size)), size) for scene, _ in cases])
        low_res = F.avg_pool2d(truth, size // lower.resolution)
        parts = [slice(first, first + 10) for first in range(0, count, 10)]
        painted = torch.cat(
            [
                stage(cond[p], generators(seed, range(count))[p], low_res=low_res[p].to(cascade.device)).cpu()
                for p in parts
            ]
        )
        enlarged = upsample(low_res, (size, size))
        results[stage.name] = {
            "stage": round(psnr(painted, truth).mean().item(), 2),
            "bicubic": round(psnr(enlarged, truth).mean().item(), 2),
        }
    return results
