"""A read that fails for a moment does not end a run."""

import errno
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ediffi.data.index import Shard
from ediffi.data.shards import load_shard
from ediffi.io import retries, urls

CONTENT = bytes(range(256)) * 9000  # more than a buffer


class Failing(io.FileIO):
    """A file of which the reads with these numbers fail, after they have moved on."""

    def __init__(self, path: Path | str, failures: set[int], reads: list[int], kind: int = errno.EIO) -> None:
        super().__init__(path)
        self.failures, self.reads, self.kind = failures, reads, kind

    def readinto(self, buffer: Any) -> int:
        self.reads.append(len(self.reads))
        count = super().readinto(buffer)
        if self.reads[-1] in self.failures:
            raise OSError(self.kind, "Input/output error")
        return count


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    def install(*failures: int) -> list[int]:
        reads: list[int] = []
        monkeypatch.setattr(urls, "_open", lambda url: Failing(url, set(failures), reads))
        return reads

    return install


def test_a_file_is_read_on_from_where_it_was(
    tmp_path: Path, failing: Callable[..., list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    reads = failing(1, 3, 4)
    assert urls.read_bytes(str(tmp_path / "a.tar")) == CONTENT
    assert len(reads) > 5
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert f"{tmp_path / 'a.tar'}: Input/output error; trying again in 0 s" in caplog.text


def test_a_file_that_stays_broken_is_an_error(tmp_path: Path, failing: Callable[..., list[int]]) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    reads = failing(*range(99))
    with pytest.raises(OSError, match="Input/output error"):
        urls.read_bytes(str(tmp_path / "a.tar"))
    assert len(reads) == 1 + len(retries.PAUSES)


def test_opening_is_tried_again_and_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(retries, "PAUSES", (1.0, 4.0))
    monkeypatch.setattr(retries.time, "sleep", waited.append)
    outcomes = iter(
        [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.ETIMEDOUT, "timed out"), io.BytesIO(b"x")]
    )

    def opened() -> io.BytesIO:
        if isinstance(outcome := next(outcomes), OSError):
            raise outcome
        return outcome

    assert retries.RetriedFile(opened, "a").read() == b"x"
    assert waited == [1.0, 4.0]


def test_a_missing_file_is_an_error_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in (str(tmp_path / "a.tar"), f"file://{tmp_path}/a.tar"):
        with pytest.raises(FileNotFoundError, match=r"a\.tar"):
            urls.read_bytes(place)
    assert not caplog.records


def test_a_shard_is_whole_after_a_failed_read(shards: list[Shard], failing: Callable[..., list[int]]) -> None:
    wanted = load_shard(shards[0])
    failing(0, 2)
    assert load_shard(shards[0]) == wanted
