"""How often a Toybox cascade paints what the prompt says, by the oracle."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from ediffi.evaluation.datasets.toybox import Caption, Scene, Score, accuracy, prompts, read_batch, score
from ediffi.evaluation.datasets.toybox.caption import Length
from ediffi.io.images import to_images
from ediffi.pipeline.cascade import Cascade

READABLE = 32
"""Smallest pictures the oracle reads well."""


def judge(
    cascade: Cascade,
    count: int = 300,
    seed: int = 0,
    batch_size: int = 25,
    length: Length = "short",
    guidance_scale: float | None = None,
) -> tuple[dict[str, Any], list[tuple[Caption, Image.Image, Score]]]:
    """Paint held-out prompts of one to three objects and read each stage's pictures back.

    Args:
        cascade: the model.
        count: how many prompts.
        seed: of the prompts and of the pictures.
        batch_size: pictures at a time; picture k is painted with seed + its batch.
        length: of the captions.
        guidance_scale: of the base stage; the model's own by default.

    Returns:
        Accuracy per field for each stage (0 to 1), with the protocol; and each caption with its last picture and score.

    Raises:
        ValueError: the last stage's pictures are too small for the oracle.
    """
    if (side := cascade.stages[-1].resolution) < READABLE:
        raise ValueError(f"the model ends at {side} pixels, and the oracle reads pictures of {READABLE} or more")
    cases = prompts(seed, count, "test", length)
    scores: dict[str, list[Score]] = {}
    shown: list[tuple[Caption, Image.Image, Score]] = []
    started, settings = time.perf_counter(), {}
    for first in tqdm(range(0, count, batch_size), desc="painting held-out prompts", unit="batch"):
        chunk = cases[first : first + batch_size]
        texts = [caption.text for _, caption in chunk]
        pictures = cascade(texts, seed=seed + first, guidance_scale=guidance_scale)
        settings = dict(pictures.settings["stages"])
        for name, tensor in pictures.stages.items():
            if tensor.shape[-1] >= READABLE:
                scores.setdefault(name, []).extend(_scores(chunk, to_images(tensor)))
        last = scores[cascade.stages[-1].name][-len(chunk) :]
        shown += [(c, image, s) for (_, c), image, s in zip(chunk, pictures.images, last, strict=True)]
    results = {
        "dataset": "toybox",
        "split": "test",
        "captions": length,
        "count": count,
        "seed": seed,
        "accuracy": {name: accuracy(rows) for name, rows in scores.items()},
        "by_objects": _by_objects(cases, scores[cascade.stages[-1].name]),
        "sampling": settings,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return results, shown


def _scores(chunk: list[tuple[Scene, Caption]], images: list[Image.Image]) -> list[Score]:
    readings = read_batch([np.array(image) for image in images])
    return [score(scene, caption, reading) for (scene, caption), reading in zip(chunk, readings, strict=True)]


def _by_objects(cases: list[tuple[Scene, Caption]], scores: list[Score]) -> Mapping[str, float]:
    """Share of the pictures with everything right, by number of objects."""
    numbers = sorted({len(scene.objects) for scene, _ in cases})
    return {
        str(number): accuracy([s for (scene, _), s in zip(cases, scores, strict=True) if len(scene.objects) == number])[
            "everything"
        ]
        for number in numbers
    }


def sheet(
    shown: list[tuple[Caption, Image.Image, Score]], columns: int = 6, rows: int = 6, side: int = 192
) -> Image.Image:
    """A grid of pictures with their captions; what is wrong is named in red."""
    height = side + 64
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
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:4])


def write(folder: Path, results: Mapping[str, Any], shown: list[tuple[Caption, Image.Image, Score]]) -> None:
    """Write `results.json` and `sheet.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    sheet(shown).save(folder / "sheet.png")
    beside = folder / "results.json.tmp"
    beside.write_text(json.dumps(results, indent=1) + "\n")
    beside.replace(folder / "results.json")
