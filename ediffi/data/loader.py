"""Loaders of a run: where a pass begins, where it ends, and what their processes do at a signal."""

import signal
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from ediffi.data.stream import Batch, ShardStream

GRACE = 30
"""Seconds that a loader process stays after SIGTERM, as long as SLURM waits by default before it kills."""


class ContinuedLoader(DataLoader[Batch]):
    """A loader of which each pass begins where the run is: Lightning begins a pass for each of its epochs, so that
    `limit_train_batches` would show the same batches in all of them."""

    def __init__(self, stream: ShardStream, batches_done: Callable[[], int], **options: Any) -> None:
        super().__init__(stream, **options)
        self.stream, self.batches_done = stream, batches_done

    def __iter__(self) -> Any:
        self.stream.start = self.batches_done()
        return super().__iter__()


def leave_signals(worker: int) -> None:
    """Ctrl-C and a cluster's signals often reach every process of a run. The trainer's saves the step and ends the
    workers; a worker that died before would end the run instead."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))  # the alarm ends the worker


class FirstBatches(IterableDataset[Batch]):
    """The first `count` batches of a stream."""

    def __init__(self, stream: ShardStream, count: int) -> None:
        self.stream, self.count = stream, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.stream, self.count)
