"""An embedding run from its first word to its index, in one of the processes that share it."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ediffi.data.embedding.embed import Embedder, work
from ediffi.data.embedding.identity import build, identity
from ediffi.data.embedding.ledger import Ledger
from ediffi.data.embedding.plan import Plan, check_there, measure
from ediffi.data.index import INDEX
from ediffi.data.known import known_shards
from ediffi.hub.config import Part
from ediffi.io import urls
from ediffi.io.distributed import DistributedContext
from ediffi.registry.types import Encoder

DTYPE = "bfloat16"


@dataclass(frozen=True)
class EmbedRun:
    """What is to be embedded, by what, into which folder.

    Args:
        shards: the sources, in order.
        folder: of the output.
        parts: the encoders, by source.
        batch_tokens: see `Embedder`.
        batch_pictures: see `Embedder`.
    """

    shards: Sequence[str]
    folder: Path
    parts: Mapping[str, Part]
    batch_tokens: int = 8192
    batch_pictures: int = 64

    def __call__(self, fleet: DistributedContext, processes: int | None = None, dry_run: bool = False) -> None:
        """Do the share of one process; the first one tells what to expect, shows the progress and writes the index.

        Args:
            fleet: the process among those of the run.
            processes: how many the expectation is for; those of the fleet by default.
            dry_run: tell only what to expect.

        Raises:
            OSError: a shard is not there or cannot be written.
            ValueError: an encoder or the folder does not fit, or there is nothing to embed, or too little space.
        """
        check_there(self.shards)
        encoders = build(self.parts, fleet.device)
        embedder = Embedder(encoders, self.batch_tokens, self.batch_pictures)
        if dry_run:
            if fleet.rank == 0:
                _tell(measure(self.shards, embedder, processes or fleet.world_size), self.folder)
            return
        ledger = Ledger(self.folder, len(self.shards), self._request(encoders))
        plan = self._plan(ledger, embedder, fleet) if fleet.rank == 0 else None
        fleet.gather(None)  # nobody begins before the first process knows that it fits
        if ledger.is_complete:
            if fleet.rank == 0:
                print(f"complete already: {self.folder / INDEX}")
            return
        ledger.begin()
        first = fleet.rank * len(self.shards) // fleet.world_size
        known = known_shards(self.shards)
        if fleet.rank:
            work(ledger, self.shards, embedder, known, first)
            return
        with Progress(ledger, plan.samples if plan else 0) as progress:
            work(ledger, self.shards, embedder, known, first, progress.look)
        self._finish(ledger)

    def _request(self, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
        """What the folder is for: the same sources, encoders and batches make the same bytes."""
        listed = "\n".join(map(urls.redact, self.shards))
        return {
            "sources": {"count": len(self.shards), "sha256": hashlib.sha256(listed.encode()).hexdigest()},
            "encoders": {source: identity(self.parts[source], encoder) for source, encoder in encoders.items()},
            "dtype": DTYPE,
            "batch_tokens": self.batch_tokens,
            "batch_pictures": self.batch_pictures,
        }

    def _plan(self, ledger: Ledger, embedder: Embedder, fleet: DistributedContext) -> Plan | None:
        pending = [self.shards[number] for number in ledger.pending()]
        if not pending:
            return None
        if len(self.shards) < fleet.world_size:
            idle = fleet.world_size - len(self.shards)
            print(f"{len(self.shards)} shards for {fleet.world_size} processes: {idle} will be idle", file=sys.stderr)
        plan = measure(pending, embedder, fleet.world_size)
        _tell(plan, self.folder)
        plan.check_space(self.folder)
        return plan

    def _finish(self, ledger: Ledger) -> None:
        if ledger.is_complete:  # another run of the same command was first
            print(ledger.folder / INDEX)
            return
        losses: dict[str, int] = {}
        for record in ledger.records().values():
            for reason, count in {**record.get("dropped", {}), **record.get("skipped", {})}.items():
                losses[reason] = losses.get(reason, 0) + count
        total = sum(record["samples"] for record in ledger.records().values())
        if not total:
            raise ValueError(f"no sample of {len(self.shards)} shards could be embedded: {_listed(losses)}")
        request = ledger.request
        index = ledger.finish({"dataset": "embedded", "encoders": request["encoders"], "dtype": DTYPE})
        print(f"{total:,} samples in {len(self.shards):,} shards; left out: {_listed(losses) or 'nothing'}")
        print(index)


class Progress:
    """A bar over the samples of all processes, with the time that is left."""

    def __init__(self, ledger: Ledger, expected: int) -> None:
        self._ledger = ledger
        done = self._done()
        self._bar = tqdm(total=expected + done, initial=done, unit="sample", desc="embed", disable=None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def look(self) -> None:
        """Show what is recorded."""
        done = self._done()
        if done > self._bar.n:
            self._bar.total = max(self._bar.total, done)
            self._bar.update(done - self._bar.n)

    def _done(self) -> int:
        return sum(record["samples"] for record in self._ledger.records().values())


def _tell(plan: Plan, folder: Path) -> None:
    print(*plan.lines(folder), sep="\n", flush=True)


def _listed(losses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(losses.items(), key=lambda item: -item[1]))
