"""Measure a Toybox cascade: how often its images show what the prompt says, and the PSNR of super-resolution."""

import json
import math
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from ediffi.evaluation.datasets.toybox import Caption, Length, Score, accuracy, prompts, read, render, score
from ediffi.io.files import replace
from ediffi.io.images import to_images, to_tensor
from ediffi.io.progress import Progress
from ediffi.pipeline.cascade import Cascade
from ediffi.registry.denoisers.precondition import upsample
from ediffi.registry.random import Philox

READABLE: Final = 32  # side of the smallest images that the oracle reads well


def judge(
    cascade: Cascade,
    count: int = 300,
    seed: int = 0,
    batch_size: int = 25,
    length: Length = "short",
    guidance_scale: float | None = None,
) -> tuple[dict[str, Any], list[tuple[Caption, Image.Image, Score]]]:
    """Generate images of held-out prompts of one to three objects, and read each stage's images with the oracle.

    A batch that begins with image k has the seed `seed + k`. Returns the accuracy per field for each stage (0 to 1),
    with the protocol; and each caption with its last image and score.
    """
    last = cascade.stages[-1]
    if last.resolution < READABLE:
        raise ValueError(f"the model ends at {last.resolution} pixels; the oracle reads images of {READABLE} or more")
    cases = prompts(seed, count, "test", length)
    scores: dict[str, list[Score]] = {}
    images: list[Image.Image] = []
    started, settings = time.perf_counter(), {}
    for first in Progress(range(0, count, batch_size), desc="held-out prompts", unit="batch"):
        batch = cases[first : first + batch_size]
        made = cascade([caption.text for _, caption in batch], seed=seed + first, guidance_scale=guidance_scale)
        settings = dict(made.settings["stages"])
        images += made.images
        for name, tensor in made.stages.items():
            if tensor.shape[-1] >= READABLE:
                rows = [score(*case, read(np.array(im))) for case, im in zip(batch, to_images(tensor), strict=True)]
                scores.setdefault(name, []).extend(rows)
    final = list(zip(cases, scores[last.name], strict=True))
    by_objects: dict[int, list[Score]] = {}
    for (scene, _), result in final:
        by_objects.setdefault(len(scene.objects), []).append(result)
    results = {
        **{"dataset": "toybox", "split": "test", "captions": length, "count": count, "seed": seed},
        "accuracy": {name: accuracy(rows) for name, rows in scores.items()},
        "by_objects": {str(k): accuracy(rows)["everything"] for k, rows in sorted(by_objects.items())},
        "sampling": settings,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return results, [(caption, image, s) for ((_, caption), s), image in zip(final, images, strict=True)]


def sheet(shown: list[tuple[Caption, Image.Image, Score]]) -> Image.Image:
    """A grid of images with their captions; wrong fields are named in red."""
    columns, side, height = 6, 192, 256
    rows = min(6, math.ceil(len(shown) / columns))
    page = Image.new("RGB", (columns * (side + 8), rows * height), "white")
    draw = ImageDraw.Draw(page)
    for index, (caption, image, result) in enumerate(shown[: columns * rows]):
        left, top = index % columns * (side + 8) + 4, index // columns * height + 4
        page.paste(image.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        draw.multiline_text((left, top + side + 2), wrap(caption.text, side // 6), fill="black", spacing=1)
        wrong = [name for name, value in vars(result).items() if value is False and name != "everything"]
        draw.text((left, top + side + 46), "wrong: " + ", ".join(wrong) if wrong else "", fill=(200, 0, 0))
    return page


def wrap(text: str, width: int) -> str:
    """A caption in lines of `width` characters, four at most."""
    return "\n".join(textwrap.wrap(text, width)[:4])


def write(folder: Path, results: Mapping[str, Any], shown: list[tuple[Caption, Image.Image, Score]]) -> None:
    """Write `results.json` and `sheet.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    sheet(shown).save(folder / "sheet.png")
    replace(folder / "results.json", json.dumps(results, indent=1) + "\n")


def psnr(images: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """`10·log10(2²/MSE)`, the peak signal-to-noise ratio in dB of images in [-1, 1]."""
    return 10 * torch.log10(4 / (images - truth).square().flatten(1).mean(1))


def against_bicubic(cascade: Cascade, count: int = 50, seed: int = 0) -> Mapping[str, Mapping[str, float]]:
    """Mean PSNR in dB of each super-resolution stage and of bicubic, on held-out scenes averaged down to its input."""
    cases = prompts(seed, count)
    cond = cascade.encode([caption.text for _, caption in cases])
    results = {}
    for lower, stage in zip(cascade.stages, cascade.stages[1:], strict=False):
        size = stage.resolution
        truth = torch.stack([to_tensor(Image.fromarray(render(scene, size)), size) for scene, _ in cases])
        low_res = F.avg_pool2d(truth, size // lower.resolution)
        enlarged = []
        for part in (slice(first, first + 10) for first in range(0, count, 10)):
            randomness = Philox(seed, range(count))[part]
            enlarged.append(stage(cond[part], randomness, low_res=low_res[part].to(cascade.device)).cpu())
        results[stage.name] = {
            "stage": round(psnr(torch.cat(enlarged), truth).mean().item(), 2),
            "bicubic": round(psnr(upsample(low_res, (size, size)), truth).mean().item(), 2),
        }
    return results
