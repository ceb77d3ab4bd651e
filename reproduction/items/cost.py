"""Figure 13: what capacity costs, as a wider net, a deeper net, and experts."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from ediffi.diffusion.experts import Expert, ExpertTree
from ediffi.diffusion.noise import Interval, LogNormal
from ediffi.registry import denoisers
from ediffi.registry.types import Conditioning, Embedding
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import lines
from reproduction.outcome import Figure, Outcome, ResultTable

CHANNELS, RESOLUTION, STEPS, ROUNDS = 32, 16, 6, 5
KINDS = ("wider", "deeper", "experts")


def figure13(repro: ReproductionDirectory) -> Outcome:
    """Time of a step against parameters; ratios to the single network of the same round, medians of the rounds."""
    nets = {(kind, factor): network(kind, factor) for kind in KINDS for factor in repro.budget.factors}
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in nets}
    for _ in range(ROUNDS):
        for key, (_, walk) in nets.items():
            seconds[key].append(timed(walk))
    single = seconds["experts", 1] if ("experts", 1) in seconds else seconds[KINDS[0], repro.budget.factors[0]]
    ratios = {key: median(a / b for a, b in zip(times, single, strict=True)) for key, times in seconds.items()}
    sizes = {key: size for key, (size, _) in nets.items()}
    series = {
        kind: (
            [sizes[kind, f] / 1e6 for f in repro.budget.factors],
            [ratios[kind, f] for f in repro.budget.factors],
        )
        for kind in KINDS
    }
    axes = {"xscale": "log", "yscale": "log", "xlabel": "parameters, millions", "ylabel": "time of a step, single = 1"}
    lines(repro.path("figures", "figure13.png"), series, axes)
    largest = max(repro.budget.factors)
    return Outcome(
        here=f"With {largest} times the capacity a step takes {ratios['experts', largest]:.2f} of the single net's "
        f"time as experts, wider {ratios['wider', largest]:.2f}, deeper {ratios['deeper', largest]:.2f}.",
        weaker="A small network on a processor; memory is measured by benchmarks/expert_cost.py.",
        numbers={kind: {"parameters": x, "time ratio": y} for kind, (x, y) in series.items()},
        tables=[
            ResultTable(
                "Time of a step, single network = 1",
                ["capacity", *KINDS],
                [[f"{f}x", *(f"{ratios[kind, f]:.2f}" for kind in KINDS)] for f in repro.budget.factors],
            )
        ],
        figures=[Figure("figure13.png", "Time of a step against parameters; flat is what experts are for.")],
    )


def network(kind: str, factor: int) -> tuple[int, Callable[[], None]]:
    """Parameters of a contestant, and a walk through all noise with it."""
    torch.manual_seed(0)
    count = factor if kind == "experts" else 1
    level = count.bit_length() - 1
    nets = [_net(kind, factor) for _ in range(count)]
    noise = LogNormal()
    denoiser: nn.Module = ExpertTree(noise, [Expert(Interval(level, k)) for k in range(count)], nn.ModuleList(nets))
    cond = Conditioning({"t5": Embedding(torch.ones(1, 16, 32), torch.ones(1, 16, dtype=torch.bool))})
    sigmas = noise.quantile((torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS).float()
    x = torch.zeros(1, 3, RESOLUTION, RESOLUTION)

    def walk() -> None:
        with torch.inference_mode():
            for sigma in sigmas:
                denoiser(x, sigma[None], cond)

    walk()
    return sum(p.numel() for net in nets for p in net.parameters()), walk


def timed(walk: Callable[[], None]) -> float:
    """Seconds of a walk."""
    started = time.perf_counter()
    walk()
    return time.perf_counter() - started


def _net(kind: str, factor: int) -> nn.Module:
    width = round(CHANNELS * factor**0.5 / 16) * 16 if kind == "wider" else CHANNELS
    depth = round(1 + 2.2 * (factor - 1)) if kind == "deeper" else 1
    return denoisers.create(
        "unet_toybox",
        channels=width,
        num_res_blocks=depth,
        head_channels=16,
        context_width=32,
        tokens={"t5": 32},
        pooled={},
    ).eval()
