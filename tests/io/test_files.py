"""A file or folder is replaced whole or not at all, whatever happens in between."""

import hashlib
import os
from pathlib import Path

import pytest

from ediffi.io import files


def names(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("content", "expected"), [(b"\x00new", b"\x00new"), ("größer", "größer".encode())])
def test_replace_writes_bytes_and_text_as_utf8(tmp_path: Path, content: bytes | str, expected: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old and longer than the new content")
    files.replace(path, content)
    assert path.read_bytes() == expected
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with files.replacing(path) as beside:
            beside.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    (tmp_path / "a.json.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_the_first_error_is_reported(tmp_path: Path) -> None:
    """Also where the temporary file cannot be removed."""
    (tmp_path / "a.json.tmp").mkdir()
    with pytest.raises(RuntimeError, match="first"), files.replacing(tmp_path / "a.json"):
        raise RuntimeError("first")


def test_a_folder_cannot_be_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        files.replace(tmp_path / "missing" / "a.json", b"new")


@pytest.mark.parametrize("existing", [False, True])
def test_replacing_folder_replaces_the_whole_folder(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "parent" / "model"
    if existing:
        path.mkdir(parents=True)
        (path / "old").touch()
    with files.replacing_folder(path) as folder:
        (folder / "new").touch()
        assert path.exists() == existing
    assert names(path) == ["new"]
    assert names(path.parent) == ["model"]
    assert path.stat().st_mode == tmp_path.joinpath("parent").stat().st_mode  # not the 0700 of a temporary folder


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_replacing_folder_keeps_the_old_folder_when_the_block_raises(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()

    def interrupted() -> None:
        with files.replacing_folder(path) as folder:
            (folder / "half").touch()
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_replacing_folder_puts_the_old_folder_back(tmp_path: Path) -> None:
    """When the new folder cannot take its place: here because it is gone."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(FileNotFoundError), files.replacing_folder(path) as folder:
        folder.rmdir()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_replacing_folder_in_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), files.replacing_folder(tmp_path / "file" / "model"):
        raise AssertionError("the block must not run")


def test_hashes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"abc")
    second.write_bytes(b"de")
    assert files.sha256(first) == hashlib.sha256(b"abc").hexdigest()
    lines = "".join(f"{path.name}\0{files.sha256(path)}\n" for path in (first, second))
    before = files.fingerprint([first, second])
    assert before == hashlib.sha256(lines.encode()).hexdigest()
    assert files.fingerprint([second, first]) != before
    first.write_bytes(b"abd")  # as long as before
    assert files.fingerprint([first, second]) != before


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    digest = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (names.append(path.name), digest(path))[1])
    return names


def checked(path: Path, content: bytes) -> files.CheckedFile:
    return files.CheckedFile(path, hashlib.sha256(content).hexdigest(), "a file of an encoder")


def test_a_checked_file_is_hashed_once_and_again_when_it_was_touched(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"right")
    file = checked(path, b"right")
    assert [file.check(), file.check()] == [path, path]
    assert hashed == ["a.bin"]
    os.utime(path, ns=(0, 0))
    assert [file.check(), file.check()] == [path, path]
    assert hashed == ["a.bin"] * 2


def test_a_checked_file_with_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    file = checked(path, b"right")
    with pytest.raises(FileNotFoundError, match=r"a\.bin is missing, a file of an encoder; the folder is incomplete"):
        file.check()
    path.write_bytes(b"wrong")
    with pytest.raises(
        ValueError, match=r"a\.bin has sha256 \w{12}\.\.\., \w{12}\.\.\. is listed: truncated or changed"
    ):
        file.check()
    path.write_bytes(b"right")
    file.check()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"wrong")
    os.utime(path, ns=times)
    with pytest.raises(ValueError, match="is listed: changed after it was loaded"):
        file.check()


def test_files_are_checked_in_threads_and_asked_one_by_one(tmp_path: Path, hashed: list[str]) -> None:
    listed = []
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode())
        listed.append(checked(tmp_path / name, b"c" if name == "d" else name.encode()))
    with files.checking(listed):
        for file in listed[:3]:
            file.check()
        with pytest.raises(ValueError, match="d has sha256"):
            listed[3].check()
    assert sorted(hashed)[:3] == ["a", "b", "c"], "once each, in a thread or here"
