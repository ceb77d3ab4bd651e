"""What a text encoder makes of captions: how many of their tokens it does not know, and which it cannot tell apart."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from ediffi.data.index import indexed_shards
from ediffi.data.shards import caption_of, reject_for_embedding
from ediffi.data.tar import Tally, each_shard, read_samples
from ediffi.registry.encoders import reads_text
from ediffi.registry.types import Encoder, TextEncoder

TOKENIZED = 1024  # captions tokenized at a time
EXAMPLES = 5  # unknown words that are named
REFUSED = 0.25
"""Share of unknown tokens, or of captions read alike, with which an embedding run does not begin: rare words and long
captions do not come to so much, an encoder of another world does."""
WARNED_TOKENS, WARNED_CAPTIONS = 0.05, 0.01
"""Shares above which a finished run warns."""

COUNTS = ("captions", "alike", "tokens", "unknown")

logger = logging.getLogger(__name__)


@dataclass
class Reading:
    """Counts over captions that differ in more than case and white space, within each shard.

    Attributes:
        captions: how many there are.
        alike: of them, those that are the same to the encoder as another one.
        tokens: of all of them, without the special tokens; 0 for an encoder to which nothing is unknown.
        unknown: of them, those that are not in the vocabulary.
        words: unknown words, and how many captions have them.
    """

    captions: int = 0
    alike: int = 0
    tokens: int = 0
    unknown: int = 0
    words: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, encoder: TextEncoder, captions: Iterable[str]) -> "Reading":
        """What an encoder makes of the captions of a shard."""
        found, texts = cls(), different(captions)
        unknown = getattr(encoder, "unknown_token", None)
        special = 0 if unknown is None else int(encoder.tokenize([""])[1].sum())
        seen: list[bytes] = []
        for first in range(0, len(texts), TOKENIZED):
            some = texts[first : first + TOKENIZED]
            ids, mask = encoder.tokenize(some)
            seen += [row[real].numpy().tobytes() for row, real in zip(ids, mask, strict=True)]
            if unknown is None:
                continue
            found.tokens += int(mask.sum()) - special * len(some)
            odd = (ids == unknown) & mask
            found.unknown += int(odd.sum())
            unknown_words: Callable[[str], list[str]] = getattr(encoder, "unknown_words", lambda text: [])
            for row in odd.any(1).nonzero().flatten().tolist():
                found.words.update(word.casefold() for word in unknown_words(some[row]))
        found.captions = len(seen)
        found.alike = sum(count for count in Counter(seen).values() if count > 1)
        return found

    def add(self, other: "Reading") -> None:
        """Add the counts of another shard."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.words.update(other.words)

    @property
    def shares(self) -> tuple[float, float]:
        """Of tokens, those that are unknown, and of captions, those read alike."""
        return self.unknown / max(self.tokens, 1), self.alike / max(self.captions, 1)

    def record(self) -> dict[str, Any]:
        """As plain JSON, with the most frequent unknown words only."""
        return {**asdict(self), "words": dict(self.words.most_common(EXAMPLES))}

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "Reading":
        """The inverse of `record`; ValueError for anything else."""
        try:
            counts = {name: int(record[name]) for name in COUNTS}
            return cls(**counts, words=Counter({str(word): int(count) for word, count in record["words"].items()}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"an index has a broken record of captions: {error!r}") from None

    def line(self, source: str) -> str:
        """As a sentence."""
        unknown, _ = self.shares
        examples = ", ".join(word for word, _ in self.words.most_common(EXAMPLES))
        named = f" (among them {examples})" if examples else ""
        tokens = f"{unknown:.1%} of the tokens of the captions are unknown{named}, and " if self.tokens else ""
        return f"{source}: {tokens}{self.alike:,} of {self.captions:,} different captions are read like another one"


def check(readings: Mapping[str, Reading]) -> None:
    """ValueError if an encoder does not read the captions, as far as `REFUSED` tells."""
    for source, reading in readings.items():
        if max(reading.shares) > REFUSED:
            advice = "choose an encoder that knows their words, such as minilm or one trained on them, or allow it"
            raise ValueError(f"{reading.line(source)}: {advice} (--allow-unknown)")


def read_captions(encoders: Mapping[str, Encoder], captions: Sequence[str]) -> dict[str, Reading]:
    """By source, what each text encoder makes of the captions of a shard."""
    texts = {source: cast(TextEncoder, one) for source, one in encoders.items() if reads_text(one)}
    return {source: Reading.of(encoder, captions) for source, encoder in texts.items()}


def read_shards(encoders: Mapping[str, Encoder], shards: Sequence[str]) -> dict[str, Reading]:
    """The same of the captions of many shards, with a progress bar."""

    def of_shard(url: str) -> dict[str, Reading]:
        return read_captions(encoders, [caption_of(raw) for raw in read_samples(url, Tally(), reject_for_embedding)])

    return together(each_shard(of_shard, shards, "captions"))


def recorded(shards: Sequence[str]) -> dict[str, Reading]:
    """What the indexes beside embedded shards have recorded of their captions; nothing for older ones."""
    known = indexed_shards(shards)
    records = (known[url].captions for url in shards if url in known)
    return together({source: Reading.parse(entry) for source, entry in record.items()} for record in records)


def together(readings: Iterable[Mapping[str, Reading]]) -> dict[str, Reading]:
    """The sums of readings, by source."""
    total: dict[str, Reading] = {}
    for one in readings:
        for source, reading in one.items():
            total.setdefault(source, Reading()).add(reading)
    return total


def warn(readings: Mapping[str, Reading]) -> None:
    """Log what each encoder makes of the captions; a warning, if it misses more than rare words and long endings."""
    for source, reading in readings.items():
        tokens, captions = reading.shares
        bad = tokens > WARNED_TOKENS or captions > WARNED_CAPTIONS
        logger.log(logging.WARNING if bad else logging.INFO, "%s", reading.line(source))


def different(captions: Iterable[str]) -> list[str]:
    """The captions without those that differ from an earlier one in case or white space only."""
    found: dict[str, str] = {}
    for caption in captions:
        found.setdefault(_plain(caption), caption)
    return list(found.values())


def _plain(caption: str) -> str:
    return " ".join(caption.casefold().split())
