"""`ediffi reproduce`: the paper's tables and figures in miniature; its code is in a checkout, beside the package."""

import sys
from dataclasses import replace
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
OUTPUT = Path("runs/reproduction")


def reproduce(
    *, only: str | None = None, budget: str = "quick", seeds: int | None = None, output: Path = OUTPUT
) -> None:
    """Make the paper's tables and figures again, in miniature: figures, results.json and one page, report.html.

    The same command resumes an interrupted reproduction. Several processes may share a folder: each makes an item that
    no other process is making, and waits for the items that it needs from them.

    Args:
        only: only these items, as in table1,figure7; of model, figure3, figure4, controls, samplers, guidance,
            figure13, table1, branching, figure7, figure8.
        budget: quick (minutes, tests that all of it runs), full (hours on a CPU), or a YAML file like those in
            recipes/reproduction.
        seeds: number of trainings of each ensemble; the budget's own by default.
        output: folder of the reproduction.
    """
    if not (CHECKOUT / "reproduction" / "directory.py").is_file():
        raise ValueError(
            "the reproduction is not a part of the installed package: clone the repository of ediffi, run `make` in "
            "it, and then `.venv/bin/ediffi reproduce`"
        )
    sys.path.insert(0, str(CHECKOUT))
    from reproduction.budget import read_budget
    from reproduction.directory import ReproductionDirectory
    from reproduction.run import item
    from reproduction.run import reproduce as make

    names = [] if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        item(name)  # raises for an unknown name before anything is made
    chosen = read_budget(budget)
    print(make(ReproductionDirectory(output, chosen if seeds is None else replace(chosen, seeds=seeds)), names, print))
