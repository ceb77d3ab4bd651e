"""A stage as a card on the page: the noise levels its sampler visits, the expert of each, and the current step."""

import html
import math
from dataclasses import dataclass

import torch

from ediffi.diffusion.experts import ExpertTree
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.studio.jobs import StepDone
from ediffi.studio.views import data_url

NUM_COLOURS = 6
"""Colours of experts in the style sheet."""


@dataclass(frozen=True)
class ExpertBand:
    """A part of the axis that one expert owns. An expert may own several."""

    index: int  # of the expert
    label: str  # its noise interval
    left: float  # 0 is the noisiest step
    right: float  # 1 is the cleanest step


class NoiseChart:
    """The noise levels of a stage on a logarithmic axis, from the noisiest step to the cleanest."""

    def __init__(self, stage: Stage, sampling: Sampling) -> None:
        self.stage = stage
        self.sigmas: list[float] = sampling.sigmas()[:-1].tolist()
        tree = stage.denoiser
        self.tree = tree if isinstance(tree, ExpertTree) else None
        bands = [ExpertBand(0, "", 0.0, 1.0)]
        if self.tree is not None:
            bands = [
                ExpertBand(index, str(expert.interval), self.position(high), self.position(low))
                for index, expert in enumerate(self.tree.experts)
                for low, high in self.tree.noise.bounds(expert.interval)
            ]
        self.bands = sorted((band for band in bands if band.left < band.right), key=lambda band: band.left)

    def position(self, sigma: float) -> float:
        """The place of a noise level on the axis, 0 to 1."""
        if sigma <= 0:
            return 1.0
        high, low = math.log(self.sigmas[0]), math.log(self.sigmas[-1])
        return min(max((high - math.log(sigma)) / max(high - low, 1e-6), 0.0), 1.0)

    def expert_at(self, sigma: float) -> int:
        """Index of the expert that runs at a noise level."""
        return 0 if self.tree is None else int(self.tree.route(torch.tensor([sigma]))[0])

    def card(self, step: StepDone | None, state: str) -> str:
        """The card as HTML, with the last step; `state` is "idle", "running" or "done"."""
        current = step.sigma if step is not None and state == "running" else None
        running = None if current is None else self.expert_at(current)
        label = next((band.label for band in self.bands if band.index == running), "")
        count = len({band.index for band in self.bands})
        expert = f"expert {label}" if label and count > 1 else f"{count} expert{'s' * (count > 1)}"
        text = f"step {step.step} of {step.num_steps}" if step is not None else f"{len(self.sigmas)} steps"
        thumb = f'<img src="{data_url(step.images[0])}" alt="">' if step is not None else ""
        return (
            f'<div class="stage {state}"><div class="thumb">{thumb}</div><div class="about">'
            f"<div class=title><b>{html.escape(self.stage.name)}</b><span>{self.stage.resolution}²</span>"
            f"<em>{text}</em></div>"
            f'<div class="band">{self._bands(running)}{self._ticks(current)}</div>'
            f"<div class=ends><span>σ {self.sigmas[0]:.3g}</span><span>{html.escape(expert)}</span>"
            f"<span>{self.sigmas[-1]:.2g}</span></div></div></div>"
        )

    def _bands(self, running: int | None) -> str:
        return "".join(
            f'<i class="expert e{band.index % NUM_COLOURS}{" lit" * (band.index == running)}" '
            f'title="expert {band.label}" '
            f'style="left:{100 * band.left:.2f}%;width:{100 * (band.right - band.left):.2f}%"></i>'
            for band in self.bands
        )

    def _ticks(self, current: float | None) -> str:
        ticks = [f'<u style="left:{100 * self.position(sigma):.2f}%"></u>' for sigma in self.sigmas]
        if current is not None:
            ticks.append(f'<s style="left:{100 * self.position(current):.2f}%"></s>')
        return "".join(ticks)
