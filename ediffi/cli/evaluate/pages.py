"""`ediffi evaluate compare`, `table` and `scores`: what evaluations found, for people and for other programs."""

import sys
from pathlib import Path

from ediffi.cli.parser import UsageError


def compare(folders: list[Path], output: Path = Path("comparison.html"), captions: int = 48) -> None:
    """Put several evaluations on one page: a figure and a table per dataset, and images of the same captions.

    Args:
        folders: of evaluations, with results.json.
        output: the page.
        captions: how many of them have images on the page, those where the systems differ most.
    """
    from ediffi.evaluation import report

    if captions < 0:
        raise UsageError(f"--captions must be at least 0, got {captions}")
    print(report.compare(folders, output, ["ediffi", *sys.argv[1:]], captions))


def table(folders: list[Path], output: Path = Path("table.md")) -> None:
    """Write the numbers of evaluations as a table, a row for each setting.

    Args:
        folders: of evaluations, with results.json.
        output: a .csv file, with all digits; or .md or .tex, with the digits and intervals that the pages have.
    """
    from ediffi.evaluation.report.export import write_table
    from ediffi.evaluation.results import Results

    write_table([Results.read(folder) for folder in folders], output)
    print(output)


def scores(folder: Path, output: Path = Path("scores.csv")) -> None:
    """Write what was measured of each image: its caption, CLIP score, and what the dataset measures.

    Args:
        folder: of an evaluation.
        output: a .csv or .jsonl file.
    """
    from ediffi.evaluation.report.export import write_scores
    from ediffi.evaluation.report.stored import StoredEvaluation
    from ediffi.evaluation.results import Results

    print(f"{write_scores(StoredEvaluation(folder, Results.read(folder)), output)} rows in {output}")
