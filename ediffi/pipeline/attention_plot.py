"""Pictures of the attention: overlays of each word over noise, and the curve of text against the null token."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ediffi.pipeline.attention_maps import NULL, Attention

ROWS = 5
"""Noise levels that the overlays show."""
SIDE = 96


def overlays(attention: Attention, words: Sequence[str], path: Path) -> None:
    """A grid: a row for each of a few noise levels from high to low, a column for each word.

    Bright is attended to; each column has one scale, so that rows can be compared.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    chosen = np.unique(np.linspace(0, len(attention.sigmas) - 1, min(ROWS, len(attention.sigmas))).round().astype(int))
    figure, axes = pyplot.subplots(
        len(chosen),
        len(words) + 1,
        figsize=(1.15 * (len(words) + 1), 1.25 * len(chosen) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    gray = np.asarray(attention.image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
    maps = {word: attention.of(word).numpy() for word in words}
    for row, step in enumerate(chosen):
        axes[row, 0].imshow(attention.image, interpolation="nearest")
        axes[row, 0].set_ylabel(f"σ {attention.sigmas[step]:.2g}", fontsize=8)
        for column, word in enumerate(words, start=1):
            axes[row, column].imshow(gray, cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
            top = max(float(maps[word].max()), 1e-9)
            axes[row, column].imshow(
                maps[word][step],
                cmap="inferno",
                vmin=0,
                vmax=top,
                alpha=0.75,
                extent=(0, 1, 1, 0),
                interpolation="bicubic",
            )
            if row == 0:
                axes[row, column].set_title(f"{word}\nmax {100 * top:.0f} %", fontsize=7)
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def curve(attention: Attention, path: Path) -> None:
    """Share of the attention of each source over the noise level (eDiff-I, figure 3: text against null).

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for source, share in attention.shares().items():
        (line,) = axes.plot(attention.sigmas, 100 * share, marker=".", label=source)
        if source == NULL:
            line.set(color="black", linestyle="--", label="null token")
    axes.set(xscale="log", xlabel="sigma, picture units (sampling goes from right to left)", ylabel="attention, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def strip(images: Sequence[Image.Image], labels: Sequence[str], path: Path) -> None:
    """Pictures in a row with a label under each.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(images), figsize=(1.6 * len(images), 1.95), squeeze=False, layout="constrained"
    )
    for one, image, label in zip(axes[0], images, labels, strict=True):
        one.imshow(image)
        one.set(xticks=[], yticks=[])
        one.set_xlabel(label, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
