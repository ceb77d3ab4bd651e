"""Paint-with-words, style transfer, and the interval of noise in which guidance works."""

import dataclasses
import shutil
from pathlib import Path

from ediffi.evaluation.report.text import with_interval
from ediffi.hub.config import Part, read_config
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import locate
from ediffi.pipeline.trained_stage import save_cascade
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import lines
from reproduction.ensembles import model_stage
from reproduction.judging import DISTANCE, EVERYTHING, JudgingSettings, judge
from reproduction.outcome import Figure, Outcome, ResultTable

WEIGHTS, SCALES = (0.15, 0.3, 0.6), (0.5, 1.0)
INTERVALS = ((0.0, 1e9), (0.05, 1e9), (0.3, 1e9), (0.0, 8.0), (0.3, 8.0), (1.0, 8.0))


def controls(repro: ReproductionDirectory) -> Outcome:
    """How often painted objects lie where they are painted, and the style is the reference's, by strength."""
    from ediffi.toybox.controls import judge as judged

    cascade = Cascade.from_pretrained(repro.budget.model)
    cascade = cascade.up_to(cascade.stages[1].name)
    place = repro.path("evaluations", "controls")
    found = judged(cascade, repro.budget.cases, 0, WEIGHTS, SCALES, place)
    figures = []
    for kind, text in (
        ("paint", f"Layouts, without paint, and with w' {', '.join(f'{w:g}' for w in WEIGHTS)}."),
        ("style", f"References, without them, and at scales {', '.join(f'{s:g}' for s in SCALES)}."),
    ):
        shutil.copyfile(place / f"{kind}.png", repro.path("figures", f"{kind}.png"))
        figures.append(Figure(f"{kind}.png", text))
    tables = []
    for kind, heading in (("paint", "w'"), ("style", "scale")):
        names = list(next(iter(found[kind].values())))
        rows = [[value, *(f"{rates[name]:.3f}" for name in names)] for value, rates in found[kind].items()]
        tables.append(ResultTable(f"{kind.capitalize()}, {repro.budget.cases} cases", [heading, *names], rows))
    best = max((row["inside"], weight) for weight, row in found["paint"].items())
    styled = found["style"][f"{SCALES[-1]:g}"]["style"]
    return Outcome(
        here=f"The right object lies in its painted area for {best[0]:.3f} of the objects at w' {best[1]} "
        f"({found['paint']['0']['inside']:.3f} unpainted); the reference's style is there in {styled:.3f} "
        f"({found['style']['none']['style']:.3f} without it).",
        weaker="The paper counts nothing. Our style images show the style alone: another scene in it.",
        numbers={"paint": found["paint"], "style": found["style"], "cases": repro.budget.cases},
        tables=tables,
        figures=figures,
    )


def guidance(repro: ReproductionDirectory) -> Outcome:
    """Guidance in a part of the noise only (Kynkäänniemi et al., arXiv 2404.07724)."""
    rows, found = [], {}
    for low, high in INTERVALS:
        name = f"{low:g} to {high:g}" if high < 1e9 else f"above {low:g}" if low else "everywhere"
        model = guided(repro, low, high)
        (point,) = judge(repro, model.name, model, JudgingSettings(repro.budget.prompts, "short", (4.0,)))
        found[name] = {metric: point.metrics[metric] for metric in (DISTANCE, "clip_score", EVERYTHING)}
        rows.append([name, *(with_interval(point, metric) for metric in found[name])])
    best = min(found, key=lambda name: found[name][DISTANCE])
    series = {name: ([row["clip_score"]], [row[DISTANCE]]) for name, row in found.items()}
    axes = {"xlabel": "CLIP score", "ylabel": "Fréchet distance, CLIP features"}
    lines(repro.path("figures", "guidance.png"), series, axes)
    return Outcome(
        here=f"At guidance 4 the lowest distance, {found[best][DISTANCE]:.3f}, is that of guidance {best} "
        f"({found['everywhere'][DISTANCE]:.3f} everywhere).",
        weaker=f"{repro.budget.prompts} captions, one seed; the paper does not limit guidance.",
        numbers=found,
        tables=[ResultTable("Where guidance 4 works", ["sigma", "distance", "CLIP score", "everything right"], rows)],
        figures=[Figure("guidance.png", "Each interval of sigma in which guidance works.")],
    )


def guided(repro: ReproductionDirectory, low: float, high: float) -> Path:
    """The budget's model with a guidance interval in its base stage's settings."""
    source = locate(repro.budget.model)
    place = repro.path("models", f"guidance-{low:g}-{high:g}")
    with repro.lock(place.name):
        if not place.is_dir():
            stages = [model_stage(str(source), index) for index in range(2)]
            interval = None if (low, high) == INTERVALS[0] else (low, high)
            sampling = dataclasses.replace(stages[0].sampling, guidance_interval=interval)
            stages[0] = dataclasses.replace(stages[0], sampling=sampling)
            config = read_config(source)
            parts = {name: Part(**entry) for name, entry in config["encoders"].items()}
            save_cascade(place, place.name, parts, source / "encoders", stages)
    return place
