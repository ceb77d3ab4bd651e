"""Figures as PNG files: attention overlays and curves, rows of images, and the noise that experts own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import LogNormal
from ediffi.pipeline.attention_maps import NULL, Attention

ROWS = 5
"""Noise levels in the overlays."""
SIDE = 96

StageNoise = tuple[str, LogNormal, Sequence[Expert], Float[Tensor, " s"]]
"""A stage's name, its training noise, its experts, and the noise levels of its sampler."""


@contextmanager
def _axes(
    path: Path, rows: int, columns: int, size: tuple[float, float], dpi: int = 130, **options: Any
) -> Iterator[Any]:
    """The axes [rows, columns] of a figure of `size` inches, which is saved at the end of the block."""
    from matplotlib.figure import Figure  # without pyplot, nothing global has to be set and closed

    figure = Figure(figsize=size, layout="constrained")
    yield figure.subplots(rows, columns, squeeze=False, **options)
    figure.savefig(path, dpi=dpi)


def overlays(attention: Attention, words: Sequence[str], path: Path) -> None:
    """A row for each of a few noise levels from high to low, a column for each word, bright where it is attended to."""
    steps = np.unique(np.linspace(0, len(attention.sigmas) - 1, min(ROWS, len(attention.sigmas))).round().astype(int))
    gray = np.asarray(attention.image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
    maps = {word: attention.of(word).numpy() for word in words}
    columns = len(words) + 1
    with _axes(path, len(steps), columns, (1.15 * columns, 1.25 * len(steps) + 0.3)) as axes:
        for row, step in enumerate(steps):
            axes[row, 0].imshow(attention.image, interpolation="nearest")
            axes[row, 0].set_ylabel(f"σ {attention.sigmas[step]:.2g}", fontsize=8)
            for one, (word, heat) in zip(axes[row, 1:], maps.items(), strict=True):  # one scale in all rows of a word
                top, extent = max(float(heat.max()), 1e-9), (0, 1, 1, 0)
                one.imshow(gray, cmap="gray", vmin=0, vmax=1, extent=extent)
                scale = {"cmap": "inferno", "vmin": 0, "vmax": top, "alpha": 0.75}
                one.imshow(heat[step], extent=extent, interpolation="bicubic", **scale)
                if row == 0:
                    one.set_title(f"{word}\nmax {100 * top:.0f} %", fontsize=7)
        for one in axes.flat:
            one.set(xticks=[], yticks=[])


def attention_curve(attention: Attention, path: Path) -> None:
    """The share of attention of each source over the noise level (eDiff-I, figure 3: text against null)."""
    with _axes(path, 1, 1, (6, 3.6)) as ((axes,),):
        for source, share in attention.shares().items():
            (line,) = axes.plot(attention.sigmas, 100 * share, marker=".", label=source)
            if source == NULL:
                line.set(color="black", linestyle="--", label="null token")
        axes.set(xscale="log", xlabel="sigma (sampling goes from right to left)", ylabel="attention, %", ylim=(0, 100))
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)


def strip(images: Sequence[Image.Image], labels: Sequence[str], path: Path) -> None:
    """Images in a row with a label under each."""
    with _axes(path, 1, len(images), (1.6 * len(images), 1.95)) as axes:
        for one, image, label in zip(axes[0], images, labels, strict=True):
            one.imshow(image)
            one.set(xticks=[], yticks=[])
            one.set_xlabel(label, fontsize=8)


def expert_noise(stages: Sequence[StageNoise], path: Path) -> None:
    """The density of each stage's training noise, coloured by the expert that owns it, over the sampler's steps."""
    with _axes(path, len(stages), 1, (8, 2.2 * len(stages) + 0.4), dpi=120, sharex=True) as rows:
        for axes, (name, noise, experts, sigmas) in zip(rows[:, 0], stages, strict=True):
            ends = (noise.mean - 4 * noise.std, noise.mean + 4 * noise.std)  # of ln sigma
            for index, expert in enumerate(experts):
                for bounds in noise.bounds(expert.interval):
                    with np.errstate(divide="ignore"):
                        low, high = np.log(bounds).clip(*ends)
                    x = np.linspace(low, high, 200)
                    density = np.exp(-0.5 * ((x - noise.mean) / noise.std) ** 2)
                    style = {"color": f"C{index}", "alpha": 0.75, "linewidth": 0, "label": str(expert.interval)}
                    axes.fill_between(np.exp(x), density, **style)
            below = np.full(len(sigmas) - 1, -0.06)
            axes.plot(sigmas[:-1], below, "|", color="black", markersize=6, label="sampler's steps")
            axes.set(xscale="log", yticks=[], title=name)
            axes.legend(fontsize=7, loc="upper left", frameon=False)
            for side in ("left", "right", "top"):
                axes.spines[side].set_visible(False)
        rows[-1, 0].set_xlabel("sigma")
