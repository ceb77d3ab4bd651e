"""An embedding run on a Ray cluster: the same shards, bytes and records as on one machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ediffi.data.cluster import RayCluster, Work
from ediffi.data.embedding.estimate import EmbeddingEstimate, estimate
from ediffi.data.embedding.ledger import Ledger
from ediffi.data.embedding.run import PAUSE, EmbedRun, UnreadableShardError, embed_shard, progress, report
from ediffi.data.index import indexed_shards


def embed(run: EmbedRun, cluster: RayCluster, dry_run: bool = False) -> None:
    """Do a whole run; this process loads no encoder. Raises as `EmbedRun`."""
    run.check_shards()
    cluster.connect()
    request, expected = cluster.call(describe, run, cluster.workers, dry_run)
    if dry_run and expected is not None:
        run.tell(expected)
        return
    ledger = Ledger(run.folder, len(run.shards), request)
    if expected is not None:
        run.check(expected)
        ledger.begin()
        failed: dict[int, str] = {}
        with progress(ledger, expected.samples) as update:
            for done in cluster.each(Worker(run, request), ledger.pending()):
                if done["error"] and not done["unreadable"]:
                    raise ValueError(done["error"])
                if done["error"]:
                    failed[done["number"]] = done["error"]
                update()
        report(failed, len(run.shards))
    run.finish(ledger)


def describe(
    run: EmbedRun, workers: int, dry_run: bool, device: str
) -> tuple[dict[str, Any], EmbeddingEstimate | None]:
    """What the folder is for, and what to expect of the shards that are left, if any."""
    embedder = run.embedder(device)
    request = run.request(embedder)
    left = range(len(run.shards)) if dry_run else Ledger(run.folder, len(run.shards), request).pending()
    return request, estimate([run.shards[number] for number in left], embedder, workers) if left else None


@dataclass(frozen=True)
class Worker:
    """Makes what a worker of the cluster does with a shard: embed it, and record it once it is in its place."""

    run: EmbedRun
    request: Mapping[str, Any]

    def __call__(self, device: str) -> Work:
        """Load the encoders on a device."""
        run, embedder, known = self.run, self.run.embedder(device), indexed_shards(self.run.shards)
        ledger = Ledger(run.folder, len(run.shards), self.request)

        def work(number: int) -> dict[str, Any]:
            url = run.shards[number]
            while not ledger.is_recorded(number):  # a worker that was killed may have recorded it
                with ledger.taken(number) as mine:
                    if mine:
                        try:
                            place = ledger.place(ledger.name(number))
                            ledger.record(number, embed_shard(url, place, embedder, known.get(url)))
                        except (ValueError, OSError) as error:
                            return {"error": str(error), "unreadable": isinstance(error, UnreadableShardError)}
                        break
                time.sleep(PAUSE)  # another run of the same command has it
            return {"error": "", "unreadable": False}

        return work
