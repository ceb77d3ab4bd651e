"""What captions say: how long they are, which words they use, and how many are repeated."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

MOST_WORDS = 200_000
"""From this many different words on, no new one is counted."""
MOST_CAPTIONS = 1 << 20
"""Different captions that are remembered; of more, those with the smallest hashes stand for all."""
SHOWN = 10
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass
class CaptionFacts:
    """Counts over any number of captions; memory is bounded. Case and white space make no caption different.

    `lengths` counts captions by their characters, `words` how often a word is used. `seen` counts captions by their
    hash, of those whose hash ends in `skipped_bits` zeros: with more than `MOST_CAPTIONS`, every other one is dropped,
    all over again, so that a repeated caption is dropped, or counted, with all its repetitions.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    seen: Counter[int] = field(default_factory=Counter)
    examples: dict[int, str] = field(default_factory=dict)  # of `seen`, captions that occurred twice
    skipped_bits: int = 0

    def add(self, caption: str) -> None:
        """Count a caption."""
        plain = " ".join(caption.casefold().split())
        self.lengths[len(caption)] += 1
        self._count_words(Counter(_WORD.findall(plain)))
        code = int.from_bytes(blake2b(plain.encode(errors="replace"), digest_size=8).digest())
        if self._is_kept(code):
            self.seen[code] += 1
            if self.seen[code] > 1:
                self.examples.setdefault(code, caption)
            self._bound()

    def update(self, other: "CaptionFacts") -> None:
        """Add the counts of other captions."""
        self.lengths.update(other.lengths)
        self._count_words(other.words)
        self.skipped_bits = max(self.skipped_bits, other.skipped_bits)
        self.seen.update(other.seen)
        self.examples.update(other.examples)
        self._bound(always=True)

    @property
    def repeated(self) -> float:
        """Share of the captions that are the same as an earlier one."""
        return 1 - len(self.seen) / max(self.seen.total(), 1)

    def content(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "characters": {str(length): count for length, count in sorted(self.lengths.items())},
            "different_words": len(self.words),
            "frequent_words": dict(self.words.most_common(100)),
            "repeated_share": round(self.repeated, 6),
            "frequent_captions": dict(self._frequent(100)),
        }

    def lines(self) -> Iterator[str]:
        """As text."""
        if not self.lengths:
            return
        longest, number = max(self.lengths), self.lengths.total()
        average = sum(length * count for length, count in self.lengths.items()) / number
        yield f"captions: {average:.0f} characters on average, at most {longest:,}"
        frequent = ", ".join(f"{word} {count:,}" for word, count in self.words.most_common(SHOWN))
        most = "at least " if len(self.words) >= MOST_WORDS else ""
        yield f"different words: {most}{len(self.words):,}; the most frequent: {frequent or 'none'}"
        about = "about " if self.skipped_bits else ""
        repeated = ", ".join(f"{caption[:60]!r} {count:,} times" for caption, count in self._frequent(3))
        yield f"repeated captions: {about}{round(self.repeated * number):,} of {number:,}" + (
            f", most often {repeated}" if repeated else ""
        )

    def _frequent(self, number: int) -> list[tuple[str, int]]:
        """The most frequent captions that are repeated."""
        found = (
            (self.examples[code], count) for code, count in self.seen.items() if count > 1 and code in self.examples
        )
        return sorted(found, key=lambda one: (-one[1], one[0]))[:number]

    def _count_words(self, words: Counter[str]) -> None:
        room = len(self.words) < MOST_WORDS
        self.words.update(words if room else {word: count for word, count in words.items() if word in self.words})

    def _is_kept(self, code: int) -> bool:
        return not code & ((1 << self.skipped_bits) - 1)

    def _bound(self, always: bool = False) -> None:
        while always or len(self.seen) > MOST_CAPTIONS:
            self.skipped_bits += len(self.seen) > MOST_CAPTIONS
            self.seen = Counter({code: count for code, count in self.seen.items() if self._is_kept(code)})
            self.examples = {code: text for code, text in self.examples.items() if code in self.seen}
            always = False
