"""A sheet to judge a degradation by eye: pictures at several strengths, and each operation alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.data.degradation.degrade import Degradation, add_noise, jpeg, random_source, resize
from ediffi.data.degradation.draws import NoiseKind, Step
from ediffi.data.degradation.kernels import Kernel
from ediffi.io import images
from ediffi.io.images import open_image, to_images, to_tensor

Shown = tuple[Image.Image, str]
DETAIL = 80
"""Side, in pixels, of what is shown of a picture for an operation alone."""


def write_sheet(
    images: Sequence[Float[Tensor, "3 s s"]],
    path: Path,
    degradation: Degradation,
    strengths: Sequence[float],
    draws: int,
    seed: int = 0,
) -> None:
    """Write the sheet as PNG: a row a picture, clean and at each strength, then a detail of the first picture.

    Args:
        images: clean pictures in [-1, 1].
        path: of the PNG.
        degradation: its `strength` is replaced by each of `strengths`, its `probability` by 1.
        strengths: 0 to 1.
        draws: how often each picture is degraded at each strength.
        seed: of what is drawn.

    Raises:
        ValueError: no pictures, no draws, or a strength is out of its range.
        OSError: the file cannot be written.
    """
    if not images or draws < 1:
        raise ValueError(f"a sheet needs pictures and draws, got {len(images)} pictures and {draws} draws")
    columns = [(0.0, 0)] + [(strength, index) for strength in strengths for index in range(draws)]
    rows = [
        [
            degraded(image, replace(degradation, strength=strength, probability=1.0), seed, row, index)
            for strength, index in columns
        ]
        for row, image in enumerate(images)
    ]
    _draw([*rows, *_alone(images[0], len(rows[0]))], path)


def degraded(image: Float[Tensor, "3 s s"], degradation: Degradation, seed: int, row: int, index: int) -> Shown:
    """A degraded picture, and what was drawn for it."""
    rng = random_source(seed, row, index)
    plan = degradation.draw(rng)
    if plan is None:
        return _picture(degradation(image, rng)), f"clean, {image.shape[-1] // degradation.scale}²"
    last = f"{plan.mode}, {plan.sinc or 'no sinc'}, jpeg {'after' if plan.jpeg_last else 'before'} them"
    text = "\n".join([f"strength {degradation.strength:g}", *_lines(plan.first), *_lines(plan.second), last])
    return _picture(degradation.apply(plan, image, rng)), text


def operations(image: Float[Tensor, "3 h w"]) -> Mapping[str, Float[Tensor, "3 h w"]]:
    """What each operation alone makes of a picture in [0, 1], at strong values of the published ranges."""
    height, width = image.shape[1:]
    kernels = {
        "isotropic σ 2": Kernel("gaussian", 21, (2, 2)),
        "anisotropic σ 3×0.6": Kernel("gaussian", 21, (3, 0.6), math.pi / 4),
        "generalised σ 2 β 0.5": Kernel("generalized", 21, (2, 2), beta=0.5),
        "generalised σ 2 β 4": Kernel("generalized", 21, (2, 2), beta=4.0),
        "plateau σ 2 β 1": Kernel("plateau", 21, (2, 2), beta=1.0),
        "plateau σ 2 β 2": Kernel("plateau", 21, (2, 2), beta=2.0),
        "sinc π/3": Kernel("sinc", 21, cutoff=math.pi / 3),
        "sinc π/5": Kernel("sinc", 21, cutoff=math.pi / 5),
    }
    made = {name: kernel.blur(image).clamp(0, 1) for name, kernel in kernels.items()}
    for mode in ("area", "bilinear", "bicubic"):
        small = resize(image, height // 4, width // 4, mode)
        made[f"÷4 {mode}, back"] = resize(small, height, width, "bicubic").clamp(0, 1)
    noises: dict[str, tuple[NoiseKind, float]] = {
        "gaussian 15": ("gaussian", 15.0),
        "gaussian 30": ("gaussian", 30.0),
        "poisson 3": ("poisson", 3.0),
    }
    for name, (kind, level) in noises.items():
        made[name] = add_noise(image, kind, level, False, random_source(0))
        made[f"gray {name}"] = add_noise(image, kind, level, True, random_source(0))
    return made | {f"jpeg {quality}": jpeg(image, quality) for quality in (95, 60, 30)}


def read_pictures(paths: Sequence[Path], size: int) -> list[Float[Tensor, "3 size size"]]:
    """Pictures of files, as training sees them.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it holds no picture, or one smaller than `size`.
    """
    return [to_tensor(images.rgb(open_image(path, exif=True)), size) for path in paths]


def render_pictures(count: int, size: int, seed: int) -> list[Float[Tensor, "3 size size"]]:
    """Scenes of Toybox, where there are no photographs."""
    from ediffi.evaluation.datasets.toybox import render, sample_scene

    rng = np.random.default_rng(seed)
    return [to_tensor(Image.fromarray(render(sample_scene(rng), size)), size) for _ in range(count)]


def _alone(image: Tensor, columns: int) -> list[list[Shown]]:
    top, left = ((side - min(side, DETAIL)) // 2 for side in image.shape[1:])
    shown = []
    for name, whole in {"the picture": image / 2 + 0.5, **operations(image / 2 + 0.5)}.items():
        detail = whole[:, top : top + DETAIL, left : left + DETAIL]
        shown.append((_picture(detail * 2 - 1), f"alone, {detail.shape[-1]}² of it\n{name}"))
    return [shown[start : start + columns] for start in range(0, len(shown), columns)]


def _lines(step: Step) -> list[str]:
    blur, scale, *rest = str(step).split(", ")
    return [f"{blur}, {scale}", ", ".join(rest)]


def _picture(image: Tensor) -> Image.Image:
    return to_images(image[None])[0]


def _draw(rows: Sequence[Sequence[Shown]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    columns = max(len(row) for row in rows)
    shape = (1.9 * columns, 2.55 * len(rows))
    figure, axes = pyplot.subplots(len(rows), columns, figsize=shape, squeeze=False)
    figure.subplots_adjust(left=0.01, right=1, bottom=0.0, top=0.99, wspace=0.04, hspace=0.1)
    grid: Any
    for cells, grid in zip(rows, axes, strict=True):
        for one in grid:
            one.axis("off")
            one.set_anchor("NW")
        for one, (image, text) in zip(grid, cells, strict=False):
            one.imshow(image, interpolation="nearest")
            one.text(0, -0.03, text, transform=one.transAxes, va="top", fontsize=5.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    figure.savefig(beside, dpi=130, format="png")
    pyplot.close(figure)
    beside.replace(path)
