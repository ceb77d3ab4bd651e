"""How many samples of a run could not be trained on, over all its processes, and how many may."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from ediffi.data.stream import Batch

NAMED = 100  # samples that a process names; more are only counted
EVERY = 50  # batches after which the processes add up what they have counted

logger = logging.getLogger(__name__)


@dataclass
class SkippedSamples:
    """Counts the samples that were skipped since the first batch or the beginning of this process. They may be the
    share `allowed` of an epoch's `samples`, for each epoch that has begun since."""

    allowed: float
    samples: int
    skipped: int = 0
    read: int = 0  # by this process
    first: int | None = None  # batch
    named: dict[str, None] = field(default_factory=dict)

    def add(self, batch: Batch, processes: int, total: Callable[[int], int]) -> None:
        """Count a batch, and name what is new. ValueError: too many samples are skipped. A process that has too many by
        itself raises at once; every `EVERY` batches all of them sum their counts, by `total`."""
        if batch.index == 0 or self.first is None:  # validation begins again, and again
            self.first, self.skipped, self.read = batch.index, 0, 0
        size = len(batch.images)
        self.skipped, self.read = self.skipped + len(batch.skipped), self.read + size
        for sentence in batch.skipped:
            if sentence not in self.named and len(self.named) < NAMED:
                self.named[sentence] = None
                logger.warning("skipped %d of %d: %s", self.skipped, self.read, sentence)
        first, end = self.first * processes * size, (batch.index + 1) * processes * size
        of = self.samples * ((end - 1) // self.samples - first // self.samples + 1)
        self._check(self.skipped, of)
        if processes > 1 and batch.index % EVERY == EVERY - 1:
            self._check(total(self.skipped), of)

    def _check(self, skipped: int, of: int) -> None:
        if skipped > self.allowed * of:
            share = f"{skipped:,} of {of:,} samples cannot be trained on"
            last = f"; the last: {list(self.named)[-1]}" if self.named else ""
            raise ValueError(f"{share}, and data.max_skipped allows {self.allowed:g} of all (see data verify){last}")
