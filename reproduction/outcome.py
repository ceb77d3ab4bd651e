"""The result of a table or figure: numbers, and how to show them. Plain JSON, so that it is made once and cached."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ResultTable:
    """Rows of texts and numbers under a heading each.

    Attributes:
        title: what it shows.
        columns: headings.
        rows: as long as `columns`.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """An image file of the report.

    Attributes:
        file: its name.
        text: what it shows, in a sentence.
    """

    file: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """The result of a table or figure.

    Attributes:
        here: what came out, in a sentence or two.
        weaker: what is weaker than in the paper, or not measured in it; empty if nothing is.
        numbers: everything that was measured, by name.
        tables: to show.
        figures: to show.
    """

    here: str
    weaker: str
    numbers: Mapping[str, Any]
    tables: Sequence[ResultTable] = ()
    figures: Sequence[Figure] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Outcome":
        """The inverse of `plain`."""
        tables = [ResultTable(**table) for table in content["tables"]]
        figures = [Figure(**figure) for figure in content["figures"]]
        return cls(content["here"], content["weaker"], content["numbers"], tables, figures)


@dataclass(frozen=True)
class Mean:
    """The mean of a few seeds and half of its 95 % interval (Student's t); nan with one seed.

    Attributes:
        value: the mean.
        half: half the width of the interval.
    """

    value: float
    half: float = field(default=math.nan)

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Of some values, at least one."""
        from scipy import stats

        mean = sum(values) / len(values)
        if len(values) < 2:
            return cls(mean)
        return cls(mean, float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)))

    def shown(self, digits: int = 3, sign: bool = False) -> str:
        """As a table has it: "0.931 ± 0.012"."""
        text = f"{self.value:{'+' if sign else ''}.{digits}f}"
        return text if math.isnan(self.half) else f"{text} ± {self.half:.{digits}f}"

    def plain(self) -> list[float | None]:
        """As JSON has it."""
        return [self.value, None if math.isnan(self.half) else self.half]
