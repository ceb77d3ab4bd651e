"""What is in shards: how many, how large, what the captions and scores are like, which embeddings are there."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from tqdm import tqdm

from ediffi.data.embedding.embed import lacks_for_embedding
from ediffi.data.shards import caption_of, embeddings_of, metadata_of
from ediffi.data.tar import PICTURES, Raw, Tally, read_samples

SIDES = (64, 128, 256, 512, 1024)
"""Edges of the histogram of shortest sides; 64, 256 and 1024 are those of the stages (eDiff-I, section 5)."""
WORDS = (5, 10, 20, 40, 80)
MARKS: dict[str, tuple[tuple[str, ...], float]] = {
    "similarity": (("similarity",), 0.01),
    "aesthetic": (("AESTHETIC_SCORE", "aesthetic", "aesthetic_score"), 0.1),
}
"""Scores, the fields of a sample's JSON that tell them, and the width of the bins that they are counted in."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
READERS = 4


@dataclass
class Embedded:
    """The embeddings of one source.

    Attributes:
        samples: that have them.
        tokens: in all.
        bytes: of the tensors.
        kinds: "[n, 768] bfloat16" and how often.
    """

    samples: int = 0
    tokens: int = 0
    bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


@dataclass
class Survey:
    """Counts over any number of samples; memory does not grow with them.

    Attributes:
        tally: samples, bytes and losses.
        sides: shortest sides of the pictures, by edge of `SIDES`.
        original_sides: those that the metadata tell of the pictures before they were resized.
        words: how many captions have how many words; at most 1000 are told apart.
        marks: by score, how many samples are in which bin.
        embedded: by source.
        fields: how many samples have which field in their JSON.
    """

    tally: Tally = field(default_factory=Tally)
    sides: Counter[int] = field(default_factory=Counter)
    original_sides: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    marks: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in MARKS})
    embedded: dict[str, Embedded] = field(default_factory=dict)
    fields: Counter[str] = field(default_factory=Counter)

    def add(self, raw: Raw) -> None:
        """Count a sample in; a picture of which not even the size can be read is counted as broken."""
        metadata = metadata_of(raw)
        try:
            self.sides[edge(min(picture_size(raw)), SIDES)] += 1
        except ValueError:
            self.tally.dropped["picture broken"] += 1
            self.tally.samples -= 1
            return
        if (original := number(metadata, "original_width")) and (height := number(metadata, "original_height")):
            self.original_sides[edge(min(original, height), SIDES)] += 1
        self.words[min(len(caption_of(raw).split()), 1000)] += 1
        for name, (fields, width) in MARKS.items():
            values = [value for one in fields if (value := number(metadata, one)) is not None]
            if values:
                self.marks[name][round(values[0] / width)] += 1
        if len(self.fields) < 1000:
            self.fields.update(list(metadata))
        if "safetensors" in raw:
            self._count_embeddings(raw)

    def _count_embeddings(self, raw: Raw) -> None:
        try:
            tensors = embeddings_of(raw)
        except ValueError:
            self.tally.skipped["embeddings broken"] += 1
            return
        for source in {name.rpartition(".")[0] for name in tensors}:
            found = self.embedded.setdefault(source, Embedded())
            found.samples += 1
            for kind in ("tokens", "pooled"):
                if (tensor := tensors.get(f"{source}.{kind}")) is not None:
                    found.bytes += tensor.nbytes
                    found.tokens += len(tensor) if kind == "tokens" else 0
                    shape = f"[n, {tensor.shape[-1]}]" if kind == "tokens" else f"[{tensor.shape[-1]}] pooled"
                    found.kinds[f"{shape} {str(tensor.dtype).removeprefix('torch.')}"] += 1

    def join(self, other: "Survey") -> None:
        """Count another survey in."""
        self.tally.add(other.tally)
        for name in ("sides", "original_sides", "words", "fields"):
            getattr(self, name).update(getattr(other, name))
        for name, marks in other.marks.items():
            self.marks[name].update(marks)
        for source, more in other.embedded.items():
            found = self.embedded.setdefault(source, Embedded())
            found.samples += more.samples
            found.tokens += more.tokens
            found.bytes += more.bytes
            found.kinds.update(more.kinds)

    def content(self) -> dict[str, Any]:
        """Plain JSON; scores as the middle of their bin."""
        marks = {n: {f"{k * MARKS[n][1]:.2f}": c for k, c in sorted(found.items())} for n, found in self.marks.items()}
        return {
            "samples": self.tally.samples,
            "bytes": self.tally.bytes,
            **self.tally.told(),
            "shortest_sides": named(self.sides, SIDES),
            "original_shortest_sides": named(self.original_sides, SIDES),
            "words": {str(count): captions for count, captions in sorted(self.words.items())},
            "scores": marks,
            "embeddings": {source: vars(found) for source, found in sorted(self.embedded.items())},
            "fields": dict(self.fields.most_common()),
        }


def survey(shards: Sequence[str]) -> Survey:
    """Survey shards, under a bar.

    Raises:
        OSError: one cannot be read.
    """
    total = Survey()
    with ThreadPoolExecutor(READERS) as pool:
        for one in tqdm(pool.map(_survey_one, shards), total=len(shards), unit="shard", desc="stats", disable=None):
            total.join(one)
    return total


def _survey_one(place: str) -> Survey:
    found = Survey()
    for raw in read_samples(place, found.tally, lacks_for_embedding):
        found.add(raw)
    return found


def quantiles(counts: Mapping[int, int], width: float = 1) -> dict[float, float]:
    """The values below which given shares lie, from how often each bin was seen."""
    total, found, below = sum(counts.values()), {}, 0
    remaining = list(QUANTILES)
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
    """Counts by edge, as ranges in words."""
    starts = [0, *edges]
    ends = [f"{start} to {end - 1}" for start, end in zip(starts, edges, strict=False)] + [f"from {edges[-1]}"]
    return {name: counts[start] for start, name in zip(starts, ends, strict=True) if counts.get(start)}


def number(metadata: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a sample's JSON, also one that is written as a string; None for anything else."""
    value = metadata.get(name)
    try:
        found = float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None
    return found if found is not None and abs(found) < 1e9 else None


def picture_size(raw: Raw) -> tuple[int, int]:
    """Width and height of a sample's picture, from its header.

    Raises:
        ValueError: it is no picture.
    """
    data = next(raw[suffix] for suffix in PICTURES if suffix in raw)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture of sample {raw['__key__']!r} is broken: {error}") from None


def lines(found: Survey) -> Iterator[str]:
    """A survey in words."""
    from ediffi.data.embedding.plan import told

    tally = found.tally
    yield f"{tally.samples:,} samples, {told(tally.bytes)}"
    yield from losses(tally)
    yield from tally.broken[:5]
    for title, sides in (("shortest side", found.sides), ("before resizing", found.original_sides)):
        if sides:
            yield from _table(f"{title}, pixels", named(sides, SIDES))
    if found.words:
        ranges: Counter[int] = Counter()
        for count, captions in found.words.items():
            ranges[edge(count, WORDS)] += captions
        yield from _table(f"words a caption, {mean(found.words):.1f} on average", named(ranges, WORDS))
    for name, counts in found.marks.items():
        if counts:
            width = MARKS[name][1]
            spread = ", ".join(f"{share:.0%} {value:.3g}" for share, value in quantiles(counts, width).items())
            told_of = sum(counts.values())
            yield f"{name}: mean {mean(counts, width):.3g}, below {spread} ({told_of:,} samples tell it)"
    for source, embedded in sorted(found.embedded.items()):
        kinds = ", ".join(kind for kind, _ in embedded.kinds.most_common(4))
        each = embedded.tokens / max(embedded.samples, 1)
        yield (
            f"embeddings {source}: {kinds}; {each:.1f} tokens on average, {told(embedded.bytes)}, "
            f"{embedded.samples:,} samples"
        )


def losses(tally: Tally) -> Iterator[str]:
    """What was left out, in words."""
    for title, counts in (("samples dropped", tally.dropped), ("members not read", tally.skipped)):
        if counts:
            yield f"{title}: " + ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def _table(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    total, widest = sum(counts.values()), max(map(len, counts))
    yield f"{title}:"
    for name, count in counts.items():
        share = count / total
        yield f"  {name:<{widest}}  {share:6.1%}  {count:>12,}  {'#' * round(40 * share)}"
