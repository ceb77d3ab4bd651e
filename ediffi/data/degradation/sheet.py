"""A sheet to judge a degradation by eye: images at several strengths, and each operation alone."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.data.degradation.degrade import Degradation, add_noise, jpeg, random_source, resize
from ediffi.data.degradation.kernels import Kernel
from ediffi.data.degradation.rounds import MODES, DrawnRound, NoiseKind
from ediffi.io import files
from ediffi.io.image_input import read_image
from ediffi.io.images import to_images, to_tensor

Cell = tuple[Tensor, str]  # an image in [-1, 1], and the text below it
DETAIL = 80  # side, in pixels, of the part of an image on which an operation alone is shown


def write_sheet(
    images: Sequence[Tensor],
    path: Path,
    degradation: Degradation,
    strengths: Sequence[float],
    draws: int,
    seed: int = 0,
) -> None:
    """Write the sheet as PNG: a row for each image [3, s, s] in [-1, 1], clean and `draws` times at each of `strengths`
    (0 to 1), then details of the first image after each operation alone."""
    if not images or draws < 1:
        raise ValueError(f"a sheet needs images and draws, got {len(images)} images and {draws} draws")
    columns = [(0.0, 0)] + [(strength, index) for strength in strengths for index in range(draws)]
    rows = [
        [
            _degraded(image, replace(degradation, strength=strength, probability=1.0), random_source(seed, row, index))
            for strength, index in columns
        ]
        for row, image in enumerate(images)
    ]
    alone = _operations(images[0])
    _draw([*rows, *(alone[start : start + len(columns)] for start in range(0, len(alone), len(columns)))], path)


def read_images(paths: Sequence[Path], size: int) -> list[Float[Tensor, "3 size size"]]:
    """Images of files, as training sees them; ValueError for no image, or one smaller than `size`."""
    return [to_tensor(read_image(path), size) for path in paths]


def render_images(count: int, size: int, seed: int) -> list[Float[Tensor, "3 size size"]]:
    """Scenes of Toybox, for a sheet without photographs."""
    from ediffi.evaluation.datasets.toybox import render, sample_scene

    rng = np.random.default_rng(seed)
    return [to_tensor(Image.fromarray(render(sample_scene(rng), size)), size) for _ in range(count)]


def _degraded(image: Tensor, degradation: Degradation, rng: np.random.Generator) -> Cell:
    drawn = degradation.draw(rng)
    if drawn is None:
        return degradation(image, rng), f"clean, {image.shape[-1] // degradation.scale}²"
    last = f"{drawn.mode}, {drawn.sinc or 'no sinc'}, jpeg {'after' if drawn.jpeg_last else 'before'} them"
    text = "\n".join([f"strength {degradation.strength:g}", _described(drawn.first), _described(drawn.second), last])
    return degradation.apply(drawn, image, rng), text


def _described(drawn: DrawnRound) -> str:
    level = f"{drawn.level:.{0 if drawn.noise == 'gaussian' else 1}f}"
    noise = f"{'gray ' if drawn.gray else ''}{drawn.noise} {level}"
    return f"{drawn.kernel or 'no blur'}, ×{drawn.scale:.2f} {drawn.mode}\n{noise}, jpeg {drawn.quality}"


def _operations(clean: Tensor) -> list[Cell]:
    """What each operation alone makes of an image, at strong values of the published ranges; the centre of each."""
    image, (height, width) = clean / 2 + 0.5, clean.shape[1:]
    kernels = {
        "isotropic σ 2": Kernel("gaussian", 21, (2, 2)),
        "anisotropic σ 3×0.6": Kernel("gaussian", 21, (3, 0.6), math.pi / 4),
        "generalized σ 2 β 0.5": Kernel("generalized", 21, (2, 2), beta=0.5),
        "generalized σ 2 β 4": Kernel("generalized", 21, (2, 2), beta=4.0),
        "plateau σ 2 β 1": Kernel("plateau", 21, (2, 2), beta=1.0),
        "plateau σ 2 β 2": Kernel("plateau", 21, (2, 2), beta=2.0),
        "sinc π/3": Kernel("sinc", 21, cutoff=math.pi / 3),
        "sinc π/5": Kernel("sinc", 21, cutoff=math.pi / 5),
    }
    made = {"the image": image} | {name: kernel.blur(image).clamp(0, 1) for name, kernel in kernels.items()}
    for mode in MODES:
        small = resize(image, height // 4, width // 4, mode)
        made[f"÷4 {mode}, back"] = resize(small, height, width, "bicubic").clamp(0, 1)
    noises: tuple[tuple[NoiseKind, float], ...] = (("gaussian", 15), ("gaussian", 30), ("poisson", 3))
    for kind, level in noises:
        made[f"{kind} {level}"] = add_noise(image, kind, level, False, random_source(0))
        made[f"gray {kind} {level}"] = add_noise(image, kind, level, True, random_source(0))
    made |= {f"jpeg {quality}": jpeg(image, quality) for quality in (95, 60, 30)}
    top, left, side = (height - min(height, DETAIL)) // 2, (width - min(width, DETAIL)) // 2, min(width, DETAIL)
    return [
        (result[:, top : top + DETAIL, left : left + DETAIL] * 2 - 1, f"alone, {side}² of it\n{name}")
        for name, result in made.items()
    ]


def _draw(rows: Sequence[Sequence[Cell]], path: Path) -> None:
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(1.9 * columns, 2.55 * len(rows)))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(left=0.01, right=1, bottom=0.0, top=0.99, wspace=0.04, hspace=0.1)
    grid: Any
    for cells, grid in zip(rows, axes, strict=True):
        for one in grid:
            one.axis("off")
            one.set_anchor("NW")
        for one, (image, text) in zip(grid, cells, strict=False):
            one.imshow(to_images(image[None])[0], interpolation="nearest")
            one.text(0, -0.03, text, transform=one.transAxes, va="top", fontsize=5.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as beside:
        figure.savefig(beside, dpi=130, format="png")
