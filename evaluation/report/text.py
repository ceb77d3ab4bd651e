"""The numbers of an evaluation as plain text, for a terminal."""

from ediffi.evaluation.naming import metric_name, shown
from ediffi.evaluation.results import Point, Results


def text_table(results: Results) -> str:
    """The numbers as text, a row for each setting, or a column if there are more metrics than settings."""
    # A metric that no setting has a number of, such as the KID's standard deviation of few images, has no line.
    measured = dict.fromkeys(name for point in results.points for name in point.metrics)
    names = [name for name in measured if any(point.metric(name) is not None for point in results.points)]
    titles = [metric_name(name) for name in names]
    # A measure of several kinds of prompts is told with its kind.
    titles = [
        f"{name.partition('/')[0]}: {title.lower()}" if titles.count(title) > 1 else title
        for name, title in zip(names, titles, strict=True)
    ]
    rows = [["", *titles]]
    rows += [[point.title, *(with_interval(point, name) for name in names)] for point in results.points]
    if len(results.points) < len(names):
        rows = [list(row) for row in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def with_interval(point: Point, name: str) -> str:
    """A number as people read it, with the ends of its interval: "7.35 [7.21, 7.50]"."""
    text, ends = shown(name, point.metric(name)), point.interval(name)
    return text if ends is None else f"{text} [{', '.join(shown(name, end) for end in ends)}]"
