"""The spectrum of a stage: the noise its sampler passes through, who owns which of it, and where the sampler is."""

import html
import math
from dataclasses import dataclass

import torch

from ediffi.diffusion.experts import ExpertTree
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.studio.run import Step
from ediffi.studio.sheet import data_url


@dataclass(frozen=True)
class Band:
    """A part of the noise, with the expert that owns it.

    Attributes:
        index: of the expert; experts may own several bands.
        label: what the expert owns, in words.
        left: where it begins, 0 at the noisiest step.
        right: where it ends, 1 at the cleanest step.
    """

    index: int
    label: str
    left: float
    right: float


class Spectrum:
    """A stage as a visitor sees it: from the noisiest step at the left to the cleanest at the right.

    Args:
        stage: the stage.
        sampling: how it is sampled.
    """

    def __init__(self, stage: Stage, sampling: Sampling) -> None:
        self.stage = stage
        self.sigmas: list[float] = sampling.sigmas()[:-1].tolist()
        self.bands = self._bands()

    def place(self, sigma: float) -> float:
        """Where a noise level stands, 0 to 1, by its logarithm."""
        if sigma <= 0:
            return 1.0
        high, low = math.log(self.sigmas[0]), math.log(self.sigmas[-1])
        return min(max((high - math.log(sigma)) / max(high - low, 1e-6), 0.0), 1.0)

    def owner(self, sigma: float) -> int:
        """Index of the expert that runs at a noise level."""
        tree = self.stage.denoiser
        return int(tree.route(torch.tensor([sigma]))[0]) if isinstance(tree, ExpertTree) else 0

    def card(self, step: Step | None, state: str) -> str:
        """The stage as HTML.

        Args:
            step: the last one that was seen.
            state: "idle", "running" or "done".
        """
        running = self.owner(step.sigma) if step is not None and state == "running" else None
        owners = {band.index for band in self.bands}
        told = f"step {step.step} of {step.num_steps}" if step is not None else f"{len(self.sigmas)} steps"
        side = self.stage.resolution
        thumb = f'<img src="{data_url(step.images[0])}" alt="">' if step is not None else ""
        expert = next((band.label for band in self.bands if band.index == running), "")
        who = f"expert {expert}" if expert and len(owners) > 1 else f"{len(owners)} expert{'s' * (len(owners) > 1)}"
        return (
            f'<div class="stage {state}"><div class="thumb">{thumb}</div><div class="about">'
            f"<div class=title><b>{html.escape(self.stage.name)}</b><span>{side}²</span><em>{told}</em></div>"
            f'<div class="band">{self._drawn(running)}{self._marks(step, state)}</div>'
            f"<div class=ends><span>σ {self.sigmas[0]:.3g}</span><span>{html.escape(who)}</span>"
            f"<span>{self.sigmas[-1]:.2g}</span></div></div></div>"
        )

    def _bands(self) -> list[Band]:
        tree = self.stage.denoiser
        if not isinstance(tree, ExpertTree):
            return [Band(0, "", 0.0, 1.0)]
        bands = [
            Band(index, str(expert.region), self.place(high), self.place(low))
            for index, expert in enumerate(tree.experts)
            for low, high in tree.noise.bounds(expert.region)
        ]
        return sorted((band for band in bands if band.left < band.right), key=lambda band: band.left)

    def _drawn(self, running: int | None) -> str:
        return "".join(
            f'<i class="expert e{band.index % 6}{" lit" * (band.index == running)}" title="expert {band.label}" '
            f'style="left:{100 * band.left:.2f}%;width:{100 * (band.right - band.left):.2f}%"></i>'
            for band in self.bands
        )

    def _marks(self, step: Step | None, state: str) -> str:
        marks = [f'<u style="left:{100 * self.place(sigma):.2f}%"></u>' for sigma in self.sigmas]
        if step is not None and state == "running":
            marks.append(f'<s style="left:{100 * self.place(step.sigma):.2f}%"></s>')
        return "".join(marks)
