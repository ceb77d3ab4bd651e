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
"""Of the histograms; what lies beyond is counted at the end."""


@dataclass
class Report:
    """What became of the samples of a shard.

    Attributes:
        source: the shard.
        sha256: of the shard; empty for several.
        samples: that it had.
        kept: that are left.
        dropped: the others, by the first reason that holds.
        losses: what reading the shard left out before.
        scores: by score, counts in the bins of `EDGES`: "kept", "dropped".
        computed: how many scores were computed, by score.
        told: how many the shard told.
        shard: how the index tells of the filtered shard; None where nothing is left.
    """

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
    def of(cls, measures: Measures, verdicts: Sequence[str | None], shard: Mapping[str, Any] | None) -> "Report":
        """Of a shard, whose samples were kept (None) or dropped for a reason."""
        reasons = Counter(reason for reason in verdicts if reason is not None)
        kept = np.array([reason is None for reason in verdicts], dtype=bool)
        scores = {}
        for name in EDGES:
            values = values_of(measures, name)
            scores[name] = {"kept": _counts(name, values[kept]), "dropped": _counts(name, values[~kept])}
        return cls(
            measures.source, measures.sha256, len(verdicts), int(kept.sum()), dict(sorted(reasons.items())),
            measures.losses, scores, dict(measures.computed), dict(measures.told), shard,
        )  # fmt: skip

    @classmethod
    def total(cls, reports: Sequence["Report"], source: str) -> "Report":
        """Of many."""
        added = cls(source, scores={name: {side: _counts(name, np.empty(0)) for side in SIDES} for name in EDGES})
        losses: dict[str, Counter[str]] = {"dropped": Counter(), "skipped": Counter()}
        broken: list[str] = []
        for report in reports:
            added.samples += report.samples
            added.kept += report.kept
            for mine, other in (
                (added.dropped, report.dropped),
                (added.computed, report.computed),
                (added.told, report.told),
            ):
                for name, count in other.items():
                    mine[name] = mine.get(name, 0) + count
            for name, sides in report.scores.items():
                for side, counts in sides.items():
                    added.scores[name][side] = [a + b for a, b in zip(added.scores[name][side], counts, strict=True)]
            for kind, counter in losses.items():
                counter.update(report.losses.get(kind, {}))
            broken.extend(report.losses.get("broken", []))
        told = {"dropped": dict(losses["dropped"]), "skipped": dict(losses["skipped"]), "broken": broken}
        added.losses = {kind: loss for kind, loss in told.items() if loss}
        return added

    def write(self, path: Path) -> None:
        """Write it as JSON, beside its place and then into it."""
        content = {"format": FORMAT, **asdict(self)}
        replace(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode())

    @classmethod
    def read(cls, path: Path) -> "Report":
        """What `write` wrote.

        Raises:
            ValueError: it is another file, or broken.
        """
        try:
            content = json.loads(path.read_bytes())
            if content.pop("format") != FORMAT:
                raise ValueError("it has another format")
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds no report of a filter ({error}): remove it to filter again") from None

    def notices(self) -> list[str]:
        """What a reader of the numbers has to know, a sentence each."""
        notices = [
            f"{self.told[name]} {name} scores were told by the shards and {self.computed[name]} computed here: they "
            "may be of different models, with different scales"
            for name in SCORES
            if self.told.get(name) and self.computed.get(name)
        ]
        notices += [f"broken shard: {sentence}" for sentence in self.losses.get("broken", [])]
        for kind, what in (("dropped", "samples"), ("skipped", "members")):
            notices += [
                f"{count} {what} were not read: {reason}" for reason, count in self.losses.get(kind, {}).items()
            ]
        return notices

    def __str__(self) -> str:
        parts = [f"{count} {reason}" for reason, count in sorted(self.dropped.items(), key=lambda item: -item[1])]
        share = 100 * self.kept / max(1, self.samples)
        return f"{self.kept} of {self.samples} kept ({share:.1f} %); dropped: {', '.join(parts) or 'none'}"


SIDES = ("kept", "dropped")


def values_of(measures: Measures, name: str) -> np.ndarray:
    """One score of every sample of a shard, nan where there is none; "short_side" is in pixels."""
    if name == "short_side":
        return np.array([np.nan if size is None else min(size) for size in measures.sizes], dtype=float)
    return np.array([np.nan if value is None else value for value in getattr(measures, name)], dtype=float)


def _counts(name: str, values: np.ndarray) -> list[int]:
    edges = EDGES[name]
    inside = np.clip(values[~np.isnan(values)], edges[0], edges[-1])
    return [int(count) for count in np.histogram(inside, edges)[0]]
