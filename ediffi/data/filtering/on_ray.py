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
    records = cluster.dataset(range(len(run.names))).map_batches(
        Records(run), batch_size=1, batch_format="numpy", num_cpus=1
    )
    parts = min(PARTS, 4 * cluster.workers)  # partitions of the shuffle; each has several parts
    found = records.groupby("part", num_partitions=parts).map_groups(_duplicates, batch_format="numpy")
    written = found.groupby("block", num_partitions=min(parts, len(blocks))).map_groups(
        WriteBlock(run.duplicates), batch_format="numpy"
    )
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


@dataclass(frozen=True)
class Records:
    """The records of shards, as columns, with the part in which they meet."""

    run: FilterRun

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of a batch of numbers of shards."""
        records = np.concatenate(
            [duplicates.records_of(int(number), self.run.passing(int(number))) for number in batch["number"]]
        )
        columns = {name: records[name] for name in duplicates.RECORD.names or ()}
        return {**columns, "part": (records["high"] % np.uint64(PARTS)).astype(np.int64)}


def _duplicates(records: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    places = duplicates.duplicates_of(records)
    return {"place": places, "block": ((places >> np.uint64(32)) // duplicates.BLOCK).astype(np.int64)}


@dataclass(frozen=True)
class WriteBlock:
    """Writes the duplicates of a block into a folder."""

    folder: str

    def __call__(self, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of a group of one block."""
        block = int(found["block"][0])
        duplicates.write_block(self.folder, block, found["place"].astype(duplicates.PLACE))
        return {"block": np.array([block])}
