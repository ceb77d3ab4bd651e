"""Beyond the paper: how few network calls a sampler needs, on the trained network."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ediffi.diffusion.guidance import ClassifierFreeGuidance
from ediffi.evaluation.datasets.toybox import prompts
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.stage import Sampling
from ediffi.registry import samplers
from ediffi.registry.random import Philox, randn
from ediffi.registry.samplers.schedules import Grid
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import lines
from reproduction.outcome import Figure, Outcome, ResultTable
from reproduction.solver_distance import fine, solve, solver_distances, within_calls

REFERENCE = 200
GUIDANCE = (1.0, 3.0)
GRIDS: tuple[tuple[Grid, float], ...] = (("karras", 7.0), ("vp_time", 3.0))
"""Each with its exponent."""
OTHER_ORDERS = {"exp_abm": (2,)}
"""Besides the order that a sampler has by default."""


def table_of_samplers(repro: ReproductionDirectory) -> Outcome:
    """Distance of every sampler to the solution of 200 calls, from equal noise, with and without guidance."""
    own = Cascade.from_pretrained(repro.budget.model).stages[0].sampling
    calls = [str(count) for count in sorted({*repro.budget.nfe, own.nfe})]
    found = {f"{scale:g}": repro.cached(f"samplers-{scale:g}", partial(distances, repro, scale)) for scale in GUIDANCE}
    tables, figures = [], []
    for scale, rows in found.items():
        by_grid = {name: rows[name] for name in sorted(rows, key=lambda name: name.split(", ")[::-1])}
        shown = [[name, *(f"{row[count]:.4f}" for count in calls)] for name, row in by_grid.items()]
        title = f"Distance to {REFERENCE} calls, guidance {scale}: RMS, geometric mean of {repro.budget.starts} images"
        tables.append(ResultTable(title, ["sampler", *(f"{count} calls" for count in calls)], shown))
        series = {name: ([int(count) for count in row], list(row.values())) for name, row in by_grid.items()}
        axes = {"xscale": "log", "yscale": "log", "xlabel": "network calls", "ylabel": "distance"}
        lines(repro.path("figures", f"samplers-{scale}.png"), series, axes)
        figures.append(Figure(f"samplers-{scale}.png", f"At guidance {scale}."))
    guided = found[f"{GUIDANCE[-1]:g}"]
    best = {count: min(guided, key=lambda name: guided[name][count]) for count in calls}
    default = label(own)
    return Outcome(
        here="Nearest with guidance: "
        + "; ".join(f"{name} at {count} calls" for count, name in best.items())
        + f". The model paints with {default}: at its own {own.nfe} calls {guided[default][str(own.nfe)]:.4f}, the "
        f"nearest {guided[best[str(own.nfe)]][str(own.nfe)]:.4f} (values in [-1, 1]: a grey level is 0.0078).",
        weaker=f"The base stage alone, {repro.budget.starts} images, two grids, no exponents tried.",
        numbers={"distance": found, "best with guidance": best, "default": default, "default calls": own.nfe},
        tables=tables,
        figures=figures,
    )


def distances(repro: ReproductionDirectory, guidance_scale: float) -> dict[str, dict[str, float]]:
    """By sampler and network calls."""
    cascade = Cascade.from_pretrained(repro.budget.model)
    stage = cascade.stages[0]
    cond = cascade.encode([caption.text for _, caption in prompts(5, repro.budget.starts)])
    shape = (repro.budget.starts, 3, stage.resolution, stage.resolution)
    noise = randn(shape, Philox(0, range(repro.budget.starts)), torch.device("cpu"))
    guided = ClassifierFreeGuidance(stage.denoiser, guidance_scale)

    def denoise(x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
        return guided(x, sigma, cond)

    budgets: Sequence[int] = sorted({*repro.budget.nfe, stage.sampling.nfe})
    reference = solve(denoise, noise, fine(stage.sampling, REFERENCE))
    found: dict[str, dict[str, float]] = {}
    for sampling in settings(stage.sampling):
        steps = [within_calls(sampling, count) for count in budgets]
        measured = solver_distances(denoise, noise, steps, reference, limit=1.0)
        found[label(sampling)] = {str(count): one.typical for count, one in zip(budgets, measured, strict=True)}
    return found


def settings(own: Sampling) -> Sequence[Sampling]:
    """Every sampler on every grid between the noise levels of `own`, and `own` itself."""
    named: list[tuple[str, dict[str, int]]] = [(name, {}) for name in samplers.names()]
    named += [(name, {"order": order}) for name, orders in OTHER_ORDERS.items() for order in orders]
    every = [
        dataclasses.replace(own, sampler=name, arguments=arguments, grid=grid, rho=rho)
        for name, arguments in named
        for grid, rho in GRIDS
    ]
    return every if label(own) in map(label, every) else [*every, own]


def label(sampling: Sampling) -> str:
    """How a table names a setting: "exp_abm of order 2, vp_time"."""
    arguments = " and".join(f" {name} {value}" for name, value in sampling.arguments.items())
    return f"{sampling.sampler}{' of' if arguments else ''}{arguments}, {sampling.grid}"
