"""Figures 7 and 8: distance against CLIP score, for the ensemble and for each choice of text encoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ediffi.evaluation.datasets.toybox.caption import Length
from ediffi.evaluation.report.text import with_interval
from ediffi.evaluation.results import Point
from reproduction import ensembles
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import lines
from reproduction.items.table1 import CONFIGS, config_model
from reproduction.judging import DISTANCE, JudgingSettings, judge
from reproduction.outcome import Figure, Outcome, ResultTable

LENGTHS: Sequence[Length] = ("short", "long")
AXES = {"xlabel": "CLIP score", "ylabel": "Fréchet distance, CLIP features"}


def figure7(repro: ReproductionDirectory) -> Outcome:
    """The ensemble of configuration D and the single models of A, over guidance, on short and on long captions."""
    models = {
        name: config_model(repro, config, *CONFIGS[config], 0)
        for name, config in (("ensemble", "D"), ("baseline", "A"))
    }
    points = measured(repro, models)
    figures = []
    for length in LENGTHS:
        file = f"figure7-{length}.png"
        draw(repro, file, {name: rows[length] for name, rows in points.items()})
        figures.append(Figure(file, f"On {length} captions; the numbers are the guidance scale."))
    best = lowest(points)
    return Outcome(
        here="; ".join(
            f"on {length} captions the lowest distance is {best['ensemble'][length]:.3f} for the ensemble and "
            f"{best['baseline'][length]:.3f} for the baseline"
            for length in LENGTHS
        ).capitalize()
        + ".",
        weaker=f"One seed and {repro.budget.prompts} captions; the paper has 5,000 and a much longer training. Table 1 "
        "has the spread over seeds.",
        numbers={"curves": curves(points), "lowest distance": best},
        figures=figures,
    )


def figure8(repro: ReproductionDirectory) -> Outcome:
    """T5 alone, CLIP text alone, and both, on short and on long captions."""
    models = {
        name: ensembles.model(repro, f"encoders-{which}", ensembles.with_encoders(repro, which))
        for which, name in (("t5", "T5 only"), ("clip", "CLIP only"), ("both", "both"))
    }
    points = measured(repro, models)
    fields = ("background", "count", "layout", "shape", "colour", "everything")
    guidance = repro.budget.guidance_scales[len(repro.budget.guidance_scales) // 2]
    tables, figures = [], []
    for length in LENGTHS:
        rows = []
        for name, found in points.items():
            point = next(p for p in found[length] if p.guidance_scale == guidance)
            rows.append([name, *(with_interval(point, f"oracle/{field}") for field in fields)])
        tables.append(ResultTable(f"Right, on {length} captions at guidance {guidance:g}", ["", *fields], rows))
        draw(repro, f"figure8-{length}.png", {name: found[length] for name, found in points.items()})
        figures.append(Figure(f"figure8-{length}.png", f"On {length} captions; the numbers are the guidance scale."))
    best = lowest(points)
    order = sorted((row["long"], name) for name, row in best.items())
    return Outcome(
        here="On long captions the lowest distances are "
        f"{', '.join(f'{value:.2f} ({name})' for value, name in order)}.",
        weaker=f"Each is a quarter of the base network, trained for "
        f"{repro.budget.training.encoder_steps * repro.budget.training.batch_size:,} samples with one seed: too few to "
        "paint well, so this tells which encoder is learned from first, not which is best in the end.",
        numbers={"curves": curves(points), "lowest distance": best},
        tables=tables,
        figures=figures,
    )


def measured(repro: ReproductionDirectory, models: Mapping[str, Path]) -> dict[str, dict[Length, Sequence[Point]]]:
    """By model and length of the captions, a point for each guidance scale."""
    scales = repro.budget.guidance_scales
    return {
        name: {
            length: judge(repro, f"curve-{model.name}", model, JudgingSettings(repro.budget.prompts, length, scales))
            for length in LENGTHS
        }
        for name, model in models.items()
    }


def lowest(points: Mapping[str, Mapping[Length, Sequence[Point]]]) -> dict[str, dict[Length, float]]:
    """The lowest distance over guidance, by model and length of the captions."""
    return {
        name: {length: min(point.metrics[DISTANCE] for point in row) for length, row in rows.items()}
        for name, rows in points.items()
    }


def draw(repro: ReproductionDirectory, file: str, rows: Mapping[str, Sequence[Point]]) -> None:
    """A curve for each model."""
    series = {
        name: ([p.metrics["clip_score"] for p in points], [p.metrics[DISTANCE] for p in points])
        for name, points in rows.items()
    }
    labels = {name: [f"{p.guidance_scale:g}" for p in points] for name, points in rows.items()}
    lines(repro.path("figures", file), series, AXES, labels)


def curves(points: Mapping[str, Mapping[Length, Sequence[Point]]]) -> dict[str, Any]:
    """Points as JSON has them."""
    return {
        name: {
            length: [
                {"guidance_scale": p.guidance_scale, **{metric: p.metric(metric) for metric in p.metrics}} for p in row
            ]
            for length, row in rows.items()
        }
        for name, rows in points.items()
    }
