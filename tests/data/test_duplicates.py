"""Duplicates found by parts on disk: those of one sort in memory, whatever the number of processes."""

import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ediffi.data.filtering import duplicates
from ediffi.io.distributed import DistributedContext


def shards_of(seed: int, shards: int, rows: int, kinds: int) -> list[list[tuple[int, str]]]:
    """Rows and hashes of samples, of which some do not pass, and many share a hash."""
    rng = np.random.default_rng(seed)
    known = [rng.bytes(16).hex() for _ in range(kinds)]
    return [[(row, known[rng.integers(kinds)]) for row in range(rows) if rng.random() < 0.8] for _ in range(shards)]


def plain(shards: list[list[tuple[int, str]]]) -> list[list[int]]:
    """By a set in memory: the rows of each shard whose hash came before."""
    seen: set[str] = set()
    found: list[list[int]] = []
    for samples in shards:
        found.append([])
        for row, digest in samples:
            if digest in seen:
                found[-1].append(row)
            seen.add(digest)
    return found


def read(folder: Path, shards: int) -> list[list[int]]:
    places = {block: np.load(folder / duplicates.block_name(block)) for block in duplicates.blocks(shards)}
    return [duplicates.rows_of(places[number // duplicates.BLOCK], number).tolist() for number in range(shards)]


def find(folder: Path, shards: list[list[tuple[int, str]]], processes: int) -> None:
    """With threads in place of processes."""
    barrier, values = threading.Barrier(processes), [None] * processes

    def run(rank: int) -> None:
        def gather(value: Any) -> list[Any]:
            values[rank] = value
            barrier.wait(60)
            found = list(values)
            barrier.wait(60)
            return found

        duplicates.find(folder, len(shards), shards.__getitem__, DistributedContext(rank, processes, "cpu", gather))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("processes", [1, 3])
def test_they_are_those_of_a_set_in_memory(processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 4)
    for seed, kinds in ((0, 1), (1, 20), (2, 10_000)):
        shards, folder = shards_of(seed, 11, 13, kinds), tmp_path / f"{seed}"
        (folder / "spilled").mkdir(parents=True)
        (folder / "spilled" / "part-0-0").write_bytes(b"what an interrupted run has left")
        find(folder, shards, processes)
        assert read(folder, 11) == plain(shards)
        assert sorted(path.name for path in folder.iterdir()) == ["00000.npy", "00001.npy", "00002.npy"]
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        find(folder, shards, processes)
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 30)), unique_by=lambda row: row[2]))
def test_all_but_the_first_of_a_hash(rows: list[tuple[int, int, int]]) -> None:
    records = np.array(rows, duplicates.RECORD)
    first: dict[tuple[int, int], int] = {}
    for high, low, place in sorted(rows, key=lambda row: row[2]):
        first.setdefault((high, low), place)
    wanted = sorted(place for high, low, place in rows if first[high, low] != place)
    assert sorted(duplicates.duplicates_of(records).tolist()) == wanted


def many_hashes(number: int) -> list[tuple[int, str]]:
    """500 samples of a shard; in each odd one, the last is that of the shard before."""
    rng = np.random.default_rng(number)
    found = [(row, rng.bytes(16).hex()) for row in range(500)]
    return found if number % 2 == 0 else [*found[:-1], (499, many_hashes(number - 1)[499][1])]


def test_memory_is_that_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times the samples take no more than twice the memory, which is far below 24 bytes of each."""
    monkeypatch.setattr(sys, "intern", str)  # pathlib's; their table grows by megabytes, now and then
    peaks = []
    for shards in (20, 400):
        tracemalloc.start()
        duplicates.find(tmp_path / f"{shards}", shards, many_hashes, DistributedContext())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] < 24 * 400 * 500 / 10
    assert len(np.load(tmp_path / "400" / "00000.npy")) == 256 // 2
