"""Evaluations as `ediffi evaluate` leaves them, with numbers made up to be easily told apart."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ediffi.evaluation.results import Point, Results
from ediffi.io.distributed import DistributedContext

INCEPTION = {
    "name": "inception-v3-compat",
    "layer": "2048",
    "weights": "6726825d" + "0" * 56,
    "resize": "299x299, bilinear as in TensorFlow 1, not antialiased",
    "library": "torch-fidelity 0.4.0",
}
CLIP = {
    "name": "ViT-g-14, laion2b_s12b_b42k",
    "weights": "12" * 32,
    "resize": "224",
    "library": "open_clip_torch 3.1.0",
}
SCALES = (0.0, 1.0, 3.0, 7.5)


def evaluation(
    model: str = "ours/model",
    dataset: Any = "coco2014",  # its name; or what a protocol says of one in COCO's layout
    count: int = 5000,
    points: Sequence[Point] | None = None,
    scored: bool = True,
    **protocol: Any,
) -> Results:
    if isinstance(dataset, dict):
        protocol, dataset = {"dataset": dataset, **protocol}, "coco2014"
    suite = {"name": f"{dataset}-suite", "about": "all of it", "dataset": dataset, "count": count, "image_size": 256}
    everything = {
        "dataset": {"annotations": "captions_val2014.json", "pictures": 40504},
        "selection": {"sha256": "ab" * 32, "count": count, "seed": 0},
        "reference": {"which": "all", "resize": "bicubic, centre square", "sha256": "cd" * 32},
        "feature_extractor": INCEPTION,
        "clip": CLIP if scored else None,
        "versions": {"torch": "2.15.0", "torch-fidelity": "0.4.0"},
        "guidance": "guidance_scale w: uncond + w (cond - uncond), 1 = off",
    }
    made = [point(scale, count, scored) for scale in SCALES] if points is None else points
    return Results(model, suite, {**everything, **protocol}, made)


def point(scale: float, count: int = 5000, scored: bool = True, **metrics: float) -> Point:
    values = {"fid": 12.125 + (scale - 3) ** 2, "kid_mean": 0.00321 + scale / 1e4, "kid_std": 0.00012}
    values |= {"clip_score": 28.0625 + 6 * (1 - math.exp(-scale / 2))} if scored else {}
    settings = {"guidance_scale": scale, "nfe": 25 if scale == 1 else 50, "stages": {"base": {"sampler": "deis"}}}
    return Point(f"guidance-{scale:g}", count, {**values, **metrics}, settings)


def foreign(metrics: Mapping[str, float], count: int = 5000) -> Point:
    """Images of another system, whose settings are not known."""
    return Point("theirs", count, metrics)


def side_by_side(world_size: int, process: Callable[[DistributedContext], Any]) -> list[Any]:
    """The processes of a run, as threads: the result of each, or its ValueError or OSError."""
    gate, values = threading.Barrier(world_size), [None] * world_size
    results: list[Any] = [ValueError("unfinished")] * world_size

    def run(rank: int) -> None:
        def gather(value: Any) -> list[Any]:
            values[rank] = value
            gate.wait(20)
            everyone = list(values)
            gate.wait(20)
            return everyone

        try:
            results[rank] = process(DistributedContext(rank, world_size, "cpu", gather))
        except (ValueError, OSError) as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
