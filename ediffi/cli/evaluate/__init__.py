"""`ediffi evaluate --suite NAME`; and datasets, comparisons, and the files of compositional benchmarks."""

from ediffi.cli.evaluate.benchmarks import export, prompts
from ediffi.cli.evaluate.by_suite import captions, evaluate, prepare, suites
from ediffi.cli.evaluate.image_sets import copies, pair
from ediffi.cli.evaluate.pages import compare, scores, table
from ediffi.cli.parser import call, run

COMMANDS = (suites, captions, pair, copies, prepare, compare, table, scores, prompts, export)


def main(argv: list[str]) -> int:
    """Evaluate a model, or images, by a suite; or run one of `COMMANDS`."""
    if argv and argv[0] in [command.__name__ for command in COMMANDS]:
        return call(COMMANDS, argv, "evaluate")
    return run(evaluate, argv, "evaluate")
