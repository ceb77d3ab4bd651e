"""`ediffi reproduce`: the paper's tables and figures, made again in miniature."""

from pathlib import Path


def reproduce(
    *,
    only: str | None = None,
    budget: str = "quick",
    seeds: int | None = None,
    output: Path = Path("reproduction"),
) -> None:
    """Make the paper's tables and figures again, in miniature: figures, results.json and one page, report.html.

    The same command goes on where it was cut. Several processes may share a folder: each makes what no other is at, and
    waits for what it needs of the others.

    Args:
        only: these alone, as in table1,figure7; of model, figure3, figure4, controls, samplers, guidance, figure13,
            table1, branching, figure7, figure8.
        budget: quick (minutes, proves the wiring), full (hours of a CPU), or a YAML file like those in
            recipes/reproduction.
        seeds: trainings of each ensemble; the budget's own by default.
        output: folder of the reproduction.
    """
    from dataclasses import replace

    from reproduction.budget import read_budget
    from reproduction.run import item
    from reproduction.run import reproduce as make
    from reproduction.workshop import Workshop

    names = [] if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        item(name)
    chosen = read_budget(budget)
    print(make(Workshop(output, chosen if seeds is None else replace(chosen, seeds=seeds)), names))
