"""A run of many pictures: the same whatever the processes, goes on wherever it was cut, and touches nothing foreign."""

import hashlib
import multiprocessing
import os
import random
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tqdm import tqdm

from ediffi.evaluation.images import claim, stamp
from ediffi.evaluation.images.generate import Generated, Store, generate, open_store
from ediffi.evaluation.images.numbered import ImageFolder
from tests.evaluation.evaluations import side_by_side

COUNT, BATCH = 22, 4
SIZE = {"batch_size": 8}
PROMPTS = [f"prompt {index}" for index in range(COUNT)]
MAKERS: dict[str, Callable[[Path], Store]] = {
    "folder": lambda folder: open_store(folder, COUNT),
    "shards": lambda folder: open_store(folder, COUNT, 8),
}


class Hashes:
    """Pictures that depend on all they may depend on, on the company they were made in too."""

    def __init__(self, seed: int = 0) -> None:
        self.settings = {"model": "hashes", "seed": seed}
        self.calls: list[tuple[int, int]] = []

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        self.calls.append((first_index, len(prompts)))
        company = repr((self.settings, list(prompts), first_index))
        return [
            Image.frombytes("RGB", (2, 5), hashlib.sha256(f"{company}{index}".encode()).digest()[:30])
            for index in range(len(prompts))
        ]


def bits(folder: Path) -> dict[str, bytes]:
    """The files that are the run's result."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def run(store: Store, generator: Hashes | None = None, **options: Any) -> Generated:
    return generate(generator or Hashes(), PROMPTS, store, **({"batch_size": BATCH} | options))


def run_side_by_side(store: Callable[[], Store], world_size: int) -> list[Any]:
    """The processes of a run, as threads: the result or the error of each."""
    return side_by_side(world_size, lambda context: run(store(), context=context))


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[Path], Store]:
    return MAKERS[request.param]


@pytest.fixture
def whole(make: Callable[[Path], Store], tmp_path: Path) -> Store:
    """A run that nothing disturbed."""
    store = make(tmp_path / "whole")
    assert run(store).made == COUNT
    return store


# Identities


def test_each_block_is_made_once_in_order(make: Callable[[Path], Store], tmp_path: Path) -> None:
    generator, store = Hashes(), make(tmp_path / "run")
    made = run(store, generator)
    assert generator.calls == [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4), (20, 2)]
    assert (made.count, made.made, made.broken, made.reused) == (COUNT, COUNT, 0, 0)
    assert [store[20].tobytes(), store[21].tobytes()] == [i.tobytes() for i in Hashes()(PROMPTS[20:], 20)]


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_bits_do_not_depend_on_the_number_of_processes(
    world_size: int, make: Callable[[Path], Store], whole: Store, tmp_path: Path
) -> None:
    results = run_side_by_side(lambda: make(tmp_path / "many"), world_size)
    assert results == [Generated(COUNT, COUNT, 0, results[0].settings)] * world_size
    assert bits(tmp_path / "many") == bits(whole.folder)


def test_a_rerun_makes_nothing(make: Callable[[Path], Store], whole: Store) -> None:
    before, generator = bits(whole.folder), Hashes()
    made = run(make(whole.folder), generator)
    assert generator.calls == []
    assert (made.made, made.reused) == (0, COUNT)
    assert str(made) == "22 images, 22 already there"
    assert bits(whole.folder) == before


def test_what_is_missing_is_made_in_its_batch(tmp_path: Path) -> None:
    store = open_store(tmp_path / "run", COUNT)
    run(store)
    before, generator = bits(store.folder), Hashes()
    kept = (store.folder / "00004.png").stat().st_mtime_ns
    for index in (5, 6, 21):
        (store.folder / store.name(index)).unlink()
    assert run(store, generator).made == 3
    assert generator.calls == [(4, 4), (20, 2)]
    assert bits(store.folder) == before
    assert (store.folder / "00004.png").stat().st_mtime_ns == kept


def test_a_missing_shard_is_made_whole(tmp_path: Path) -> None:
    store = open_store(tmp_path / "run", COUNT, 8)
    run(store)
    before, generator = bits(store.folder), Hashes()
    (store.folder / "00001.tar").unlink()
    assert run(store, generator).made == 8
    assert generator.calls == [(8, 4), (12, 4)]
    assert bits(store.folder) == before


def test_what_is_broken_is_made_again_and_counted(make: Callable[[Path], Store], whole: Store) -> None:
    before = bits(whole.folder)
    name = whole.name(9).partition("/")[0]
    (whole.folder / name).write_bytes(before[name][:-40])
    made = run(make(whole.folder))
    assert made.broken == made.made == (1 if name.endswith("png") else 8)
    assert str(made).endswith(f"already there, broken and made again: {made.broken}")
    assert bits(whole.folder) == before


# Killed, again and again


class Slow(Hashes):
    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        time.sleep(0.01)
        return super().__call__(prompts, first_index)


def generate_alone(*arguments: Any) -> None:
    """In a process with a lock of its own for the bars: one that is killed while it holds a shared one keeps it."""
    tqdm.set_lock(threading.RLock())
    generate(*arguments, **SIZE)


@pytest.mark.parametrize("shard_size", [None, 16])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ten_kills_lose_nothing(shard_size: int | None, tmp_path: Path) -> None:
    prompts, moments, counts = [str(k) for k in range(300)], random.Random(5), []

    def start(folder: Path) -> Any:
        store = open_store(folder, 300, shard_size)
        run = multiprocessing.get_context("fork").Process(target=generate_alone, args=(Slow(), prompts, store))
        run.start()
        return run

    began = time.monotonic()
    unbroken = start(tmp_path / "unbroken")
    unbroken.join()
    whole = time.monotonic() - began  # kills come after a share of it, so that a busy machine gets as far
    for _ in range(10):
        process = start(tmp_path / "killed")
        time.sleep(moments.uniform(0.05, 0.4) * whole)
        process.kill()
        process.join()
        counts.append(len(list((tmp_path / "killed").glob("*.tar" if shard_size else "*.png"))))
        for path in (tmp_path / "killed").glob("*.png"):
            assert stamp.stamp_of(path) is not None  # no file is half written
    assert counts == sorted(counts)
    assert counts[-1] > 0
    last = start(tmp_path / "killed")
    last.join()
    assert (unbroken.exitcode, last.exitcode) == (0, 0)
    assert bits(tmp_path / "killed") == bits(tmp_path / "unbroken")


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(open_store(tmp_path / "run", COUNT), **options)
    assert not (tmp_path / "run").exists()


def test_a_prompt_for_each_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="22 prompts were given for a store of 3 images"):
        run(open_store(tmp_path / "run", 3))
    generator = Hashes()
    generator.settings["prompts"] = 1
    with pytest.raises(ValueError, match="must not contain 'prompts'"):
        run(open_store(tmp_path / "run", COUNT), generator)


def test_other_settings_are_refused_and_nothing_is_touched(make: Callable[[Path], Store], whole: Store) -> None:
    before = bits(whole.folder)
    with pytest.raises(ValueError, match="holds a run with other settings: seed was 0, now 1; choose another folder"):
        run(make(whole.folder), Hashes(seed=1))
    with pytest.raises(ValueError, match="batch_size was 4, now 2"):
        run(make(whole.folder), batch_size=2)
    with pytest.raises(ValueError, match=r'prompts\[3\] was "prompt 3", now "x"'):
        generate(Hashes(), [*PROMPTS[:3], "x", *PROMPTS[4:]], make(whole.folder), batch_size=BATCH)
    assert bits(whole.folder) == before


def test_a_folder_is_a_folder_of_one_kind(tmp_path: Path) -> None:
    run(MAKERS["folder"](tmp_path / "run"))
    with pytest.raises(ValueError, match=r'store.kind was "folder", now "shards"'):
        run(MAKERS["shards"](tmp_path / "run"))


def test_foreign_pictures_are_refused(whole: Store, make: Callable[[Path], Store], tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    run(other, Hashes(seed=1))
    name = whole.name(9).partition("/")[0]
    for path in other.folder.glob(f"{name}*"):
        (whole.folder / path.name).write_bytes(path.read_bytes())
    generator = Hashes()
    (whole.folder / whole.name(0).partition("/")[0]).unlink()
    with pytest.raises(ValueError, match="of this run: it was made with other settings"):
        run(make(whole.folder), generator)
    assert generator.calls == []


def test_a_folder_of_something_else_is_left_alone(make: Callable[[Path], Store], whole: Store) -> None:
    (whole.folder / "run.json").unlink()
    before = sorted(path.name for path in whole.folder.iterdir())
    with pytest.raises(ValueError, match=r"holds images and no run\.json"):
        run(make(whole.folder))
    kind = whole.name(0).partition("/")[0].rpartition(".")[2]
    (whole.folder / f"holiday.{kind}").touch()
    with pytest.raises(ValueError, match=f"holds holiday.{kind}, which is not of this run"):
        run(make(whole.folder))
    assert sorted(path.name for path in whole.folder.iterdir()) == sorted([*before, f"holiday.{kind}"])


def test_two_runs_on_one_folder(make: Callable[[Path], Store], tmp_path: Path) -> None:
    class Nosy(Hashes):
        def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
            with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on "):
                run(make(tmp_path / "run"))
            return super().__call__(prompts, first_index)

    assert run(make(tmp_path / "run"), Nosy()).made == COUNT


def test_a_process_left_over_keeps_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "PATIENCE", 0.1)
    (tmp_path / "run").mkdir()
    with claim.lock(tmp_path / "run", 1), pytest.raises(BlockingIOError, match="in use by process"):
        run(open_store(tmp_path / "run", COUNT))
    assert run(open_store(tmp_path / "run", COUNT)).made == COUNT


def test_all_processes_hear_why_one_cannot_go_on(tmp_path: Path) -> None:
    store = open_store(tmp_path / "run", COUNT)
    run(store)
    Image.new("RGB", (2, 5)).save(store.folder / "00007.png")
    first, second, third = run_side_by_side(lambda: store, 3)
    assert isinstance(second, ValueError)
    for other in (first, third):
        assert isinstance(other, ChildProcessError)
        assert str(other) == f"process 1 of this run failed: {second}"
    (store.folder / "cat.png").touch()
    first, second, third = run_side_by_side(lambda: store, 3)
    assert [type(error) for error in (first, second, third)] == [ValueError, ChildProcessError, ChildProcessError]


@pytest.mark.parametrize("much", [-1, 1])
def test_a_generator_that_cannot_count(much: int, make: Callable[[Path], Store], tmp_path: Path) -> None:
    class Forgetful(Hashes):
        def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
            images = super().__call__(prompts, first_index)
            return (images * 2)[: len(images) + (much if first_index == 12 else 0)]

    store = make(tmp_path / "run")
    with pytest.raises(ValueError, match=f"the generator returned {4 + much} images for 4 prompts"):
        run(store, Forgetful())
    assert store.count() == (12 if isinstance(store, ImageFolder) else 8)
    there = store.count()
    assert run(store).reused == there
    assert store.count() == COUNT


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file; the images need a folder"):
        run(open_store(tmp_path / "file", COUNT))
    with pytest.raises(OSError, match="file"):
        run(open_store(tmp_path / "file" / "below", COUNT))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="run"):
        run(open_store(tmp_path / "run", COUNT))


def test_a_folder_that_each_process_sees_alone_is_noticed(tmp_path: Path) -> None:
    places = iter([tmp_path / "here", tmp_path / "there"])
    (tmp_path / "there").mkdir()
    first, second = run_side_by_side(lambda: open_store(next(places), COUNT), 2)
    assert "images, though every process has finished" in str(first)
    assert "process 0 of this run failed" in str(second) or "process 1" in str(second)


# Progress


def test_the_bar_counts_what_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, parent = open_store(tmp_path / "run", COUNT), os.openpty()

    class Helped(Hashes):
        def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
            foreign = store.folder / "00017.png"  # as another process of the run would write it
            if first_index == 0:
                Image.new("RGB", (1, 1)).save(foreign)
            elif first_index == 4:
                foreign.unlink()
            return super().__call__(prompts, first_index)

    termios.tcsetwinsize(parent[1], (24, 80))
    with open(parent[1], "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        run(store, Helped())
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while part := os.read(parent[0], 4096):
            shown += part
    os.close(parent[0])
    assert b"| 0/22 [" in shown
    assert b"| 1/22 [" in shown
    assert b"| 22/22 [" in shown


def test_without_a_terminal_there_is_no_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(open_store(tmp_path / "run", COUNT))
    assert capsys.readouterr().err == ""


def test_a_log_gets_a_line_when_it_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under nohup; the last line is of the last image."""
    monkeypatch.setattr("ediffi.io.progress.EVERY", 0.0)
    caplog.set_level("INFO", "ediffi.io.progress")
    run(open_store(tmp_path / "run", COUNT))
    lines = [message.partition(" ")[2] for message in caplog.messages]
    assert lines[-1].startswith(f"generating: image {COUNT} of {COUNT}, ")
    assert len(lines) == len(set(lines)), "none comes twice"
