"""What is in shards: how many samples, image sizes, captions, scores and embeddings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ediffi.data.caption_facts import CaptionFacts
from ediffi.data.embedding.estimate import format_bytes
from ediffi.data.image_facts import side_and_transparency
from ediffi.data.shards import caption_of, embeddings_of, metadata_of, reject_for_embedding
from ediffi.data.tar import RawSample, Tally, each_shard, read_samples

SIDES = (64, 128, 256, 512, 1024)
"""Edges of the histogram of shortest sides; 64, 256 and 1024 are those of the stages (eDiff-I, section 5)."""
WORDS = (5, 10, 20, 40, 80)
SCORES: dict[str, tuple[tuple[str, ...], float]] = {
    "similarity": (("similarity",), 0.01),
    "aesthetic": (("AESTHETIC_SCORE", "aesthetic", "aesthetic_score"), 0.1),
}
"""Scores: the metadata fields that may hold one, and the width of its histogram's bins."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_COUNTS = 5000  # from this many counts on, no new metadata field is counted


@dataclass
class Survey:
    """Counts over any number of samples; memory does not grow with them.

    `counts[name, value]` is how many samples have a value: of "sides" and "original_sides" (shortest sides, by edge of
    `SIDES`; the original ones as the metadata record them), "transparent" (True or False), "words" of the caption (1000
    stands for all longer ones), "fields" of the metadata, and the bins of `SCORES`. By source: "samples", "tokens" and
    "bytes" of its embeddings; by "kinds SOURCE" their shapes, such as "[n, 768] bfloat16".
    """

    tally: Tally = field(default_factory=Tally)
    counts: Counter[tuple[str, Any]] = field(default_factory=Counter)
    captions: CaptionFacts = field(default_factory=CaptionFacts)

    def of(self, name: str) -> Counter[Any]:
        """How many samples have each value of `name`."""
        return Counter({value: count for (one, value), count in self.counts.items() if one == name})

    def add(self, raw: RawSample) -> None:
        """Count a sample; one whose image cannot be read counts as dropped."""
        counts, metadata = self.counts, metadata_of(raw)
        try:
            side, transparent = side_and_transparency(raw)
        except ValueError:
            self.tally.dropped["image broken"] += 1
            self.tally.samples -= 1
            return
        counts["sides", edge(side, SIDES)] += 1
        counts["transparent", transparent] += 1
        if (width := number(metadata, "original_width")) and (height := number(metadata, "original_height")):
            counts["original_sides", edge(min(width, height), SIDES)] += 1
        counts["words", min(len(caption_of(raw).split()), 1000)] += 1
        self.captions.add(caption_of(raw))
        for name, (fields, bin_width) in SCORES.items():
            values = [value for one in fields if (value := number(metadata, one)) is not None]
            if values:
                counts[name, round(values[0] / bin_width)] += 1
        if len(counts) < MAX_COUNTS:
            counts.update(("fields", one) for one in metadata)
        try:
            tensors = embeddings_of(raw) if "safetensors" in raw else {}
        except ValueError:
            self.tally.skipped["embeddings broken"] += 1
            return
        counts.update(("samples", source) for source in {name.rpartition(".")[0] for name in tensors})
        for name, tensor in sorted(tensors.items(), reverse=True):  # tokens first
            source, _, kind = name.rpartition(".")
            shape = f"[n, {tensor.shape[-1]}]" if kind == "tokens" else f"[{tensor.shape[-1]}] pooled"
            counts[f"kinds {source}", f"{shape} {str(tensor.dtype).removeprefix('torch.')}"] += 1
            counts["tokens", source] += len(tensor) if kind == "tokens" else 0
            counts["bytes", source] += tensor.nbytes

    def content(self) -> dict[str, Any]:
        """All counts as plain JSON; scores by the middle of their bin."""
        scores = {
            name: {f"{value * width:.2f}": count for value, count in sorted(self.of(name).items())}
            for name, (_, width) in SCORES.items()
        }
        return {
            "samples": self.tally.samples,
            "bytes": self.tally.bytes,
            **self.tally.losses(),
            "transparent": self.counts["transparent", True],
            "shortest_sides": named(self.of("sides"), SIDES),
            "original_shortest_sides": named(self.of("original_sides"), SIDES),
            "words": {str(count): captions for count, captions in sorted(self.of("words").items())},
            "texts": self.captions.content(),
            "scores": scores,
            "embeddings": self.embeddings(),
            "fields": dict(self.of("fields").most_common()),
        }

    def embeddings(self) -> dict[str, dict[str, Any]]:
        """By source, "samples", "tokens", "bytes" and "kinds" of the embeddings."""
        return {
            source: {name: self.counts[name, source] for name in ("samples", "tokens", "bytes")}
            | {"kinds": self.of(f"kinds {source}")}
            for source in sorted(self.of("samples"))
        }

    def lines(self) -> Iterator[str]:
        """The counts as text."""
        yield f"{self.tally.samples:,} samples, {format_bytes(self.tally.bytes)}"
        yield from loss_lines(self.tally)
        yield from self.tally.broken[:5]
        for title, sides in (("shortest side", "sides"), ("before resizing", "original_sides")):
            if found := self.of(sides):
                yield from _table(f"{title}, pixels", named(found, SIDES))
        if transparent := self.counts["transparent", True]:
            yield f"transparent images: {transparent:,}; a background is put behind them (white, if none is given)"
        if words := self.of("words"):
            ranges = sum((Counter({edge(count, WORDS): captions}) for count, captions in words.items()), Counter[int]())
            yield from _table(f"words a caption, {mean(words):.1f} on average", named(ranges, WORDS))
        yield from self.captions.lines()
        for name, (_, width) in SCORES.items():
            if found := self.of(name):
                spread = ", ".join(f"{share:.0%} {value:.3g}" for share, value in quantiles(found, width).items())
                yield f"{name}: mean {mean(found, width):.3g}, below {spread} ({found.total():,} samples have it)"
        for source, of in self.embeddings().items():
            kinds = ", ".join(kind for kind, _ in of["kinds"].most_common(4))
            yield (
                f"embeddings {source}: {kinds}; {of['tokens'] / of['samples']:.1f} tokens on average, "
                f"{format_bytes(of['bytes'])}, {of['samples']:,} samples"
            )


def survey(shards: Sequence[str]) -> Survey:
    """Survey shards, with a progress bar."""
    total = Survey()
    for one in each_shard(_survey_one, shards, "stats"):
        total.tally.add(one.tally)
        total.counts.update(one.counts)
        total.captions.update(one.captions)
    return total


def loss_lines(tally: Tally) -> Iterator[str]:
    """What was left out, as text."""
    for title, counts in (("samples dropped", tally.dropped), ("members not read", tally.skipped)):
        if counts:
            yield f"{title}: " + ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def quantiles(counts: Mapping[int, int], width: float = 1) -> dict[float, float]:
    """The values below which the shares of `QUANTILES` lie, from how often each bin was seen."""
    total, found, below, remaining = sum(counts.values()), {}, 0, list(QUANTILES)
    for value, count in sorted(counts.items()):
        below += count
        while remaining and below >= remaining[0] * total:
            found[remaining.pop(0)] = value * width
    return found


def mean(counts: Mapping[int, int], width: float = 1) -> float:
    """The mean of counted values."""
    return width * sum(value * count for value, count in counts.items()) / max(sum(counts.values()), 1)


def edge(value: float, edges: Sequence[int]) -> int:
    """The largest edge that is not above a value; 0 below the first."""
    return max((edge for edge in edges if edge <= value), default=0)


def named(counts: Mapping[int, int], edges: Sequence[int]) -> dict[str, int]:
    """Counts by edge, with ranges as their names."""
    starts = [0, *edges]
    ends = [f"{start} to {end - 1}" for start, end in zip(starts, edges, strict=False)] + [f"from {edges[-1]}"]
    return {name: counts[start] for start, name in zip(starts, ends, strict=True) if counts.get(start)}


def number(metadata: Mapping[str, Any], name: str) -> float | None:
    """A finite number in the metadata, also if it is written as a string; None for anything else."""
    value = metadata.get(name)
    try:
        found = float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None
    return found if found is not None and abs(found) < 1e9 else None


def _survey_one(url: str) -> Survey:
    found = Survey()
    for raw in read_samples(url, found.tally, reject_for_embedding):
        found.add(raw)
    return found


def _table(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    total, widest = sum(counts.values()), max(map(len, counts))
    yield f"{title}:"
    for name, count in counts.items():
        share = count / total
        yield f"  {name:<{widest}}  {share:6.1%}  {count:>12,}  {'#' * round(40 * share)}"
