"""A filter on a Ray cluster: the same files as on one machine. Duplicates meet by a shuffle of Ray Data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ediffi.data.cluster import RayCluster, Work
from ediffi.data.filtering import duplicates
from ediffi.data.filtering.filters import FILTER, MEASURE, FilterRun
from ediffi.data.filtering.report import FilterReport
from ediffi.data.filtering.scorer import Scorer
from ediffi.io import urls
from ediffi.io.progress import Progress

PARTS = 4096  # in which duplicates meet


def filter(run: FilterRun, cluster: RayCluster) -> FilterReport:
    """Do a whole run; this process loads no CLIP. Raises as `FilterRun.run`."""
    cluster.connect()
    run.claim(cluster.call(_claim, run))
    _each(run, MEASURE, cluster)
    if run.keep.unique:
        find_duplicates(run, cluster)
    _each(run, FILTER, replace(cluster, device="cpu"))
    return run.finish()


def find_duplicates(run: FilterRun, cluster: RayCluster) -> None:
    """`duplicates.find`, where Ray Data deals records to parts, and duplicates to blocks."""
    there, blocks = set(urls.names(run.duplicates)), duplicates.blocks(len(run.names))
    if all(duplicates.block_name(block) in there for block in blocks):
        return
    numbers, options = cluster.dataset(range(len(run.names))), {"batch_format": "numpy"}
    records = numbers.map_batches(_records, batch_size=1, fn_kwargs={"run": run}, num_cpus=1, **options)
    parts = min(PARTS, 4 * cluster.workers)  # partitions of the shuffle; each has several parts
    found = records.groupby("part", num_partitions=parts).map_groups(_duplicates, **options)
    by_block = found.groupby("block", num_partitions=min(parts, len(blocks)))
    written = by_block.map_groups(_write_block, fn_kwargs={"folder": run.duplicates}, **options)
    done = {int(row["block"]) for row in written.iter_rows()}
    for block in blocks:
        if block not in done:
            duplicates.write_block(run.duplicates, block, np.empty(0, duplicates.PLACE))


def _claim(run: FilterRun, device: str) -> dict[str, Any]:
    return Scorer(run.settings, device).claim()


def _each(run: FilterRun, step: str, cluster: RayCluster) -> None:
    missing = run.unfinished(step)
    total = len(run.names)
    if not missing:
        return
    done = cluster.each(Worker(run, step), missing)
    for one in Progress(done, step, total, initial=total - len(missing), unit="shard"):
        if one["error"]:
            raise ValueError(one["error"])


@dataclass(frozen=True)
class Worker:
    """Makes what a worker of the cluster does with a shard in a step."""

    run: FilterRun
    step: str

    def __call__(self, device: str) -> Work:
        """Load CLIP on a device, if the step needs it."""
        do: Callable[[int], None] = self.run.filter
        if self.step == MEASURE:
            scorer = Scorer(self.run.settings, device)

            def do(number: int) -> None:
                self.run.measure(number, scorer)

        def work(number: int) -> Mapping[str, Any]:
            try:
                do(number)
            except (ValueError, OSError) as error:
                return {"error": str(error)}
            return {"error": ""}

        return work


def _records(batch: Mapping[str, np.ndarray], run: FilterRun) -> dict[str, np.ndarray]:
    """The records of shards, as columns, with the part in which they meet."""
    records = np.concatenate([duplicates.records_of(int(n), run.passing(int(n))) for n in batch["number"]])
    columns = {name: records[name] for name in duplicates.RECORD.names or ()}
    return {**columns, "part": (records["high"] % np.uint64(PARTS)).astype(np.int64)}


def _duplicates(records: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    places = duplicates.duplicates_of(records)
    return {"place": places, "block": ((places >> np.uint64(32)) // duplicates.BLOCK).astype(np.int64)}


def _write_block(found: Mapping[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    """Write the duplicates of one block."""
    block = int(found["block"][0])
    duplicates.write_block(folder, block, found["place"].astype(duplicates.PLACE))
    return {"block": np.array([block])}
