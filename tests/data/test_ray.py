"""Embedding and filtering on a Ray cluster of two workers: the bytes of one machine, also where a worker is killed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra ray)")

from ediffi import cli
from ediffi.io.files import sha256
from tests.data import img2dataset

SHARDS, SAMPLES = 64, 2


@pytest.fixture(scope="module")
def source(new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("source")
    img2dataset.write(folder, SHARDS, SAMPLES, size=32)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    import ray

    paths = os.pathsep.join(filter(None, sys.path))
    ray.init(
        num_cpus=2, object_store_memory=2e8, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    yield
    ray.shutdown()


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def workers() -> list[int]:
    """The processes below this one in which Ray Data's actors run."""
    parents, names = {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                names[int(place.name)] = (place / "cmdline").read_bytes()
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, name in names.items() if name.startswith(b"ray::Map") and is_ours(pid)]


def kill_one_after(folder: Path, records: int, killed: list[int]) -> threading.Thread:
    """Kill a worker once so many shards have been recorded in a folder."""

    def watch() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            if len(list(folder.glob("*.json"))) >= records and (found := workers()):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_embedding_is_that_of_one_machine_though_a_worker_is_killed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a URL, as into a store."""
    argv, killed = ["embed", "--shards", str(source), "--encoders", "toybox"], list[int]()
    assert cli.main([*argv, "--out", str(tmp_path / "one")]) == 0
    watch = kill_one_after(tmp_path / "many" / ".embedding", 12, killed)
    many = [*argv, "--out", f"file://{tmp_path}/many", "--engine", "ray", "--devices"]
    assert cli.main([*many, "2"]) == 0
    watch.join()
    assert killed
    assert digests(tmp_path / "many") == digests(tmp_path / "one")
    assert f"{SHARDS * SAMPLES} samples in {SHARDS} shards; left out: nothing" in capsys.readouterr().out
    assert cli.main([*many, "3"]) == 1
    assert "3 workers need a CPU each, and the Ray cluster has 2" in capsys.readouterr().err


def test_a_filter_is_that_of_one_machine_though_a_worker_is_killed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of these samples is in two shards; the duplicates meet in a shuffle of Ray Data."""
    twice = sorted(source.iterdir())[:16]
    for number in range(len(twice)):
        (tmp_path / f"{number:05d}.tar").write_bytes(twice[number // 2].read_bytes())
    recipe, killed = tmp_path / "filter.yaml", list[int]()
    recipe.write_text("keep: {short_side_above: 0, unique: true}\n")
    argv = ["data", "filter", str(tmp_path), "--config", str(recipe), "--no-page", "--output"]
    assert cli.main([*argv, str(tmp_path / "one")]) == 0
    assert "16 of 32 kept (50.0 %); dropped: 16 duplicate" in capsys.readouterr().out
    watch = kill_one_after(tmp_path / "many" / "measures", 3, killed)
    assert cli.main([*argv, f"file://{tmp_path}/many", "--engine", "ray", "--devices", "2"]) == 0
    watch.join()
    assert killed
    assert "16 of 32 kept (50.0 %); dropped: 16 duplicate" in capsys.readouterr().out
    assert digests(tmp_path / "many") == digests(tmp_path / "one")
