"""How many experts, and where to branch: the paper leaves it open whether other intervals than a binary tree's help."""

from ediffi.pipeline.checkpoint import load_cascade
from reproduction import ensembles
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import bars
from reproduction.judging import BANDS, band_losses
from reproduction.outcome import Figure, Mean, Outcome, ResultTable

SEVERAL_SEEDS = ("single", "two", "three")
"""Those that Table 1 trains for every seed; the others are trained once."""


def branching(repro: ReproductionDirectory) -> Outcome:
    """Held-out loss of ensembles of two to five experts against the single model, by eighth of the noise."""
    changes: dict[str, list[list[float]]] = {}
    for seed in repro.seeds:
        single = losses(repro, "single", seed)
        for split in ensembles.SPLITS:
            if split != "single" and (seed == 0 or split in SEVERAL_SEEDS):
                own = losses(repro, split, seed)
                changes.setdefault(split, []).append(
                    [100 * (a / b - 1) for a, b in zip([*own, sum(own)], [*single, sum(single)], strict=True)]
                )
    means = {split: [Mean.of(values) for values in zip(*rows, strict=True)] for split, rows in changes.items()}
    axes = {
        "xlabel": "eighth of the training noise, the least noisy first",
        "ylabel": "held-out loss against single, %",
    }
    series = {split: [(mean.value, mean.half) for mean in row[:BANDS]] for split, row in means.items()}
    bars(repro.path("figures", "branching.png"), [str(band + 1) for band in range(BANDS)], series, axes)
    rows = [[split, *(mean.shown(1, sign=True) for mean in row)] for split, row in means.items()]
    best = min(means, key=lambda split: means[split][BANDS].value)
    return Outcome(
        here=f"Over all noise the loss is lowest with {best!r}, {means[best][BANDS].shown(1, sign=True)} %; "
        + "; ".join(f"{split} {row[BANDS].shown(1, sign=True)} %" for split, row in means.items() if split != best)
        + ".",
        weaker="Ensembles other than two and three have one seed. Uniform fifths are no nodes of a binary tree; the "
        "uniform quarters stand for them.",
        numbers={split: [mean.plain() for mean in row] for split, row in means.items()},
        tables=[
            ResultTable(
                "Change of the loss against the single model, %, with 95 % intervals where there are several seeds",
                ["experts", *(str(band + 1) for band in range(BANDS)), "all noise"],
                rows,
            )
        ],
        figures=[Figure("branching.png", "Change of the held-out loss in each eighth of the noise.")],
    )


def losses(repro: ReproductionDirectory, split: str, seed: int) -> list[float]:
    """Of an ensemble of the base stage, by band; kept."""
    place = ensembles.base(repro, split, seed)

    def measure() -> list[float]:
        stage = load_cascade(place).stages[0]
        _, test = ensembles.shards(repro)
        return band_losses(stage.denoiser, ensembles.noise(place), test, stage.resolution, 2 * repro.budget.scenes)

    return list(repro.cached(f"losses-{place.parent.name}", measure))
