"""The model itself: what the oracle finds right in its images, and how sharp they are."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.evaluation.report.text import with_interval
from ediffi.pipeline.cascade import Cascade
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import wall
from reproduction.judging import DISTANCE, JudgingSettings, judge
from reproduction.outcome import Figure, Outcome, ResultTable

AIMS = {
    "oracle/everything, 1 object": 0.98,
    "oracle/everything, 2 objects": 0.95,
    "oracle/everything, 3 objects": 0.90,
    "oracle/style": 0.97,
}
CRISP = 16
"""Images that the sharpness is measured on."""
SHARP = 0.9
"""Least sharpness, of the renderer's."""


def shipped(repro: ReproductionDirectory) -> Outcome:
    """Held-out prompts of one to three objects, attribute combinations never trained included."""
    (point,) = judge(repro, "model", repro.budget.model, JudgingSettings(repro.budget.shown))
    found = point.metrics
    cascade = Cascade.from_pretrained(repro.budget.model)
    cases = prompts(6, max(CRISP, 3))[:CRISP]
    images = cascade([caption.text for _, caption in cases], seed=6).images
    side = images[0].width
    ours = sharpness(images)
    theirs = sharpness([Image.fromarray(render(scene, side)) for scene, _ in cases])
    wall(repro.path("figures", "model.png"), [images[:8], images[8:16]], [""] * 8)
    sharp = f"edge sharpness at {side}², of the renderer's"
    rows = [[name.removeprefix("oracle/"), with_interval(point, name), f"{aim:.2f}"] for name, aim in AIMS.items()]
    rows.append([sharp, f"{ours / theirs:.3f}", f"{SHARP:.2f} to 1.10"])
    missed = [name.removeprefix("oracle/") for name, aim in AIMS.items() if found[name] < aim]
    missed += [sharp] if ours / theirs < SHARP else []
    return Outcome(
        here=f"Of {repro.budget.shown} held-out prompts {found['oracle/everything']:.3f} are all right at 64². "
        + (f"Missed: {', '.join(missed)}." if missed else "All aims are reached."),
        weaker="",
        numbers={
            "oracle": {name.removeprefix("oracle/"): value for name, value in found.items() if "oracle" in name},
            "frechet_clip": found[DISTANCE],
            "clip_score": found["clip_score"],
            "edge sharpness": ours / theirs,
            "aims": {name.removeprefix("oracle/"): aim for name, aim in AIMS.items()},
            "missed": missed,
        },
        tables=[ResultTable("Right, by the oracle", ["", "share, and its 95 % interval over prompts", "aim"], rows)],
        figures=[Figure("model.png", "Images of held-out prompts, the first sixteen, not selected.")],
    )


def sharpness(images: Sequence[Image.Image]) -> float:
    """Mean over images of the steepest change of brightness between neighbours: the 99th percentile of its size."""
    steep = []
    for image in images:
        gray = np.asarray(image.convert("L"), dtype=float)
        across, down = np.diff(gray, axis=1)[:-1], np.diff(gray, axis=0)[:, :-1]
        steep.append(np.quantile(np.hypot(across, down), 0.99))
    return float(np.mean(steep))
