"""Table 1: what each ensemble of experts adds."""

from collections.abc import Sequence
from pathlib import Path

from reproduction import ensembles
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import bars
from reproduction.judging import DISTANCE, EVERYTHING, FID, JudgingSettings, judge
from reproduction.outcome import Figure, Mean, Outcome, ResultTable

CONFIGS = {
    "A": ("single", "single"),
    "B": ("single", "two"),
    "C": ("two", "two"),
    "D": ("three", "two"),
}
"""The splits of the base and of the second stage."""
WORDS = {"single": "no experts", "two": "2 experts", "three": "3 experts"}
PAPER = {"A": 7.35, "B": 7.26, "C": 7.11, "D": 6.95}
METRICS = {
    DISTANCE: "Fréchet distance, CLIP features",
    FID: "FID",
    "clip_score": "CLIP score",
    EVERYTHING: "everything right",
}


def table1(repro: ReproductionDirectory) -> Outcome:
    """Configurations A to D at equal samples seen, each trained once for every seed."""
    found: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, int] = {}
    metrics = {name: title for name, title in METRICS.items() if name != FID or repro.budget.inception}
    for config, (base, second) in CONFIGS.items():
        for seed in repro.seeds:
            model = config_model(repro, config, base, second, seed)
            sizes[config] = ensembles.parameters(model)
            (point,) = judge(repro, model.name, model, JudgingSettings(repro.budget.prompts))
            for metric in metrics:
                found.setdefault(config, {}).setdefault(metric, []).append(point.metrics[metric])
    means = {config: {metric: Mean.of(values) for metric, values in rows.items()} for config, rows in found.items()}
    against = {
        config: {m: Mean.of(_differences(rows[m], found["A"][m])) for m in metrics} for config, rows in found.items()
    }
    draw(repro, against)
    rows = [
        [
            f"{config}: base {WORDS[CONFIGS[config][0]]}, second stage {WORDS[CONFIGS[config][1]]}",
            f"{sizes[config] / 1e6:.1f} M",
            f"{PAPER[config]:.2f}",
            *(means[config][metric].shown(2 if metric == "clip_score" else 3) for metric in metrics),
        ]
        for config in CONFIGS
    ]
    columns = ["configuration", "parameters", "paper: FID-30K, COCO", *metrics.values()]
    change = against["D"][DISTANCE]
    without = "" if FID in metrics else "No Inception features: their weights cannot ship (`inception` of a budget)."
    return Outcome(
        here=f"From A to D the distance changes by {change.shown(3, sign=True)} (paired over seeds; less is better), "
        f"and everything is right in {against['D'][EVERYTHING].shown(3, sign=True)} more of the images.",
        weaker=f"Ensembles saw {repro.budget.training.arm_steps * repro.budget.training.batch_size:,} samples after "
        "the trunk, the paper's billions; the third base expert owns the noisiest quarter, the paper's the last 1/512. "
        f"{without}",
        numbers={
            "parameters": sizes,
            "values": found,
            "means": {c: {m: mean.plain() for m, mean in row.items()} for c, row in means.items()},
            "against A": {c: {m: mean.plain() for m, mean in row.items()} for c, row in against.items()},
        },
        tables=[ResultTable("Equal samples seen; means of the seeds with 95 % intervals", columns, rows)],
        figures=[Figure("table1.png", "Change against configuration A, paired over seeds, with 95 % intervals.")],
    )


def config_model(repro: ReproductionDirectory, config: str, base: str, second: str, seed: int) -> Path:
    """The cascade of a configuration."""
    stages = ensembles.base(repro, base, seed), ensembles.super_resolution(repro, second, seed)
    return ensembles.model(repro, f"{config}-{seed}", *stages)


def draw(repro: ReproductionDirectory, against: dict[str, dict[str, Mean]]) -> None:
    """The figure."""
    series = {
        title: [(against[config][metric].value, against[config][metric].half) for config in "BCD"]
        for metric, title in METRICS.items()
        if metric in against["B"] and metric != "clip_score"
    }
    bars(repro.path("figures", "table1.png"), list("BCD"), series, {"ylabel": "change against A"})


def _differences(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, base, strict=True)]
