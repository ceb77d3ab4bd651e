"""A picture of who owns which noise: the training noise of each stage, coloured by expert, over the sampler's steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import LogNormal

Drawn = tuple[str, LogNormal, Sequence[Expert], Float[Tensor, " s"]]
"""A stage's name, its training noise, its experts, and the grid its sampler uses."""


def plot(stages: Sequence[Drawn], path: Path) -> None:
    """Draw the stages below each other into a PNG file.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        len(stages), figsize=(8, 2.2 * len(stages) + 0.4), layout="constrained", sharex=True, squeeze=False
    )
    for axes, (name, noise, experts, sigmas) in zip(rows[:, 0], stages, strict=True):
        for index, expert in enumerate(experts):
            for low, high in noise.bounds(expert.region):
                x = np.linspace(_log(low, noise), _log(high, noise), 200)
                density = np.exp(-0.5 * ((x - noise.mean) / noise.std) ** 2)
                axes.fill_between(
                    np.exp(x), density, color=f"C{index}", alpha=0.75, linewidth=0, label=str(expert.region)
                )
        axes.plot(
            sigmas[:-1], np.full(len(sigmas) - 1, -0.06), "|", color="black", markersize=6, label="sampler's steps"
        )
        axes.set(xscale="log", yticks=[], title=name)
        axes.legend(fontsize=7, loc="upper left", frameon=False)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
    rows[-1, 0].set_xlabel("sigma, picture units")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _ends(noise: LogNormal) -> tuple[float, float]:
    """Where the picture ends: four deviations from the mean of ln sigma."""
    return noise.mean - 4 * noise.std, noise.mean + 4 * noise.std


def _log(sigma: float, noise: LogNormal) -> float:
    low, high = _ends(noise)
    return float(np.clip(np.log(sigma), low, high)) if sigma > 0 else low
