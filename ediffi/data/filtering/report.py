"""What a filter did to a shard, or to all of them: counts by reason, and histograms of the scores."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ediffi.data.filtering.measure import SCORES, Measures, Record

EDGES: Mapping[str, np.ndarray] = {
    "short_side": 2 ** np.arange(4, 13.01, 0.25),
    "alignment": np.linspace(-1, 1, 101),
    "aesthetic": np.linspace(0, 10, 101),
}
"""Of the histograms; values beyond are counted in the first and last bin."""


@dataclass
class FilterReport(Record):
    """What a filter did to the samples of a shard, or of several (without `sha256` and `shard`)."""

    FORMAT = "ediffi-filter-1"
    KIND = ("report of a filter", "filter")

    source: str
    sha256: str = ""
    samples: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # by the first reason that applies
    losses: Mapping[str, Any] = field(default_factory=dict)  # what reading the shard left out
    scores: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # "kept", "dropped": counts in `EDGES`
    computed: dict[str, int] = field(default_factory=dict)  # scores computed here
    told: dict[str, int] = field(default_factory=dict)  # scores of the metadata
    shard: Mapping[str, Any] | None = None  # the filtered shard's entry in the index; None where nothing passed

    @classmethod
    def of(cls, measures: Measures, verdicts: Sequence[str | None], shard: Mapping[str, Any] | None) -> "FilterReport":
        """The report on a shard whose samples were kept (None) or dropped for a reason."""
        reasons = Counter(reason for reason in verdicts if reason is not None)
        kept = np.array([reason is None for reason in verdicts], dtype=bool)
        scores = {}
        for name in EDGES:
            values = measures.values(name)
            scores[name] = {"kept": _counts(name, values[kept]), "dropped": _counts(name, values[~kept])}
        return cls(
            measures.source, measures.sha256, len(verdicts), int(kept.sum()), dict(sorted(reasons.items())),
            measures.losses, scores, dict(measures.computed), dict(measures.told), shard,
        )  # fmt: skip

    @classmethod
    def total(cls, reports: Sequence["FilterReport"], source: str) -> "FilterReport":
        """The sum of several reports."""

        def added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
            return dict(sum(map(Counter, counts), Counter[str]()))

        losses = {kind: added(one.losses.get(kind, {}) for one in reports) for kind in ("dropped", "skipped")}
        broken = [problem for one in reports for problem in one.losses.get("broken", [])]
        scores = {
            name: {
                side: np.sum([one.scores[name][side] for one in reports], axis=0, dtype=int).tolist()
                for side in ("kept", "dropped")
            }
            for name in EDGES
        }
        return cls(
            source,
            samples=sum(one.samples for one in reports),
            kept=sum(one.kept for one in reports),
            dropped=added(one.dropped for one in reports),
            losses={kind: loss for kind, loss in {**losses, "broken": broken}.items() if loss},
            scores=scores,
            computed=added(one.computed for one in reports),
            told=added(one.told for one in reports),
        )

    def notices(self) -> list[str]:
        """What a reader of the numbers has to know, one sentence each."""
        notices = [
            f"{self.told[name]} {name} scores come from the metadata and {self.computed[name]} were computed here: "
            "they may be of different models, with different scales"
            for name in SCORES
            if self.told.get(name) and self.computed.get(name)
        ]
        notices += [f"broken shard: {problem}" for problem in self.losses.get("broken", [])]
        for kind, what in (("dropped", "samples"), ("skipped", "members")):
            notices += [f"{count} {what} were not read: {why}" for why, count in self.losses.get(kind, {}).items()]
        return notices

    def __str__(self) -> str:
        parts = [f"{count} {reason}" for reason, count in sorted(self.dropped.items(), key=lambda item: -item[1])]
        share = 100 * self.kept / max(1, self.samples)
        return f"{self.kept} of {self.samples} kept ({share:.1f} %); dropped: {', '.join(parts) or 'none'}"


def _counts(name: str, values: np.ndarray) -> list[int]:
    edges = EDGES[name]
    inside = np.clip(values[~np.isnan(values)], edges[0], edges[-1])
    return [int(count) for count in np.histogram(inside, edges)[0]]
