"""What a filter did to a shard, or to all of them: counts by reason, and histograms of the scores."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ediffi.data.filtering.measure import SCORES, Measures
from ediffi.io.files import replace

FORMAT = "ediffi-filter-1"
EDGES: Mapping[str, np.ndarray] = {
    "short_side": 2 ** np.arange(4, 13.01, 0.25),
    "alignment": np.linspace(-1, 1, 101),
    "aesthetic": np.linspace(0, 10, 101),
}
"""Of the histograms; values beyond are counted in the first and last bin."""


@dataclass
class FilterReport:
    """What a filter did to the samples of a shard, or of several (without `sha256` and `shard`)."""

    source: str
    sha256: str = ""
    samples: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    losses: Mapping[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    shard: Mapping[str, Any] | None = None

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

        def added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
            total: Counter[str] = Counter()
            for one in counts:
                total.update(one)
            return dict(total)

        losses = {kind: added([one.losses.get(kind, {}) for one in reports]) for kind in ("dropped", "skipped")}
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
            dropped=added([one.dropped for one in reports]),
            losses={kind: loss for kind, loss in {**losses, "broken": broken}.items() if loss},
            scores=scores,
            computed=added([one.computed for one in reports]),
            told=added([one.told for one in reports]),
        )

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        replace(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False, allow_nan=False))

    @classmethod
    def read(cls, path: Path) -> "FilterReport":
        """The content of a file that `write` wrote; ValueError if it has another format, or is broken."""
        try:
            content = json.loads(path.read_bytes())
            if content.pop("format") != FORMAT:
                raise ValueError("it has another format")
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds no report of a filter ({error}): remove it to filter again") from None

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
