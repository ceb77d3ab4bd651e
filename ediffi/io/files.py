"""Files and folders that are either whole or not there, and the hashes they are known by."""

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` (`name.tmp`) to write to, which takes its place when the block ends without an error. A
    block that raises leaves what stood at `path` as it was, and removes `name.tmp`. One process writes a path at a
    time."""
    beside = path.with_name(path.name + ".tmp")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            beside.unlink()
        raise


def replace(path: Path, content: bytes | str) -> None:
    """Write a file through `replacing`; text as UTF-8."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill, which takes its place when the block ends without an error. A folder that
    stood at `path` is removed after the new one is in place. A block that raises leaves it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(scratch, ignore_errors=True)


def synchronise(folder: Path) -> None:
    """Wait until the disk has the names of the files in a folder: or a rename itself may be lost with the power."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sha256(path: Path) -> str:
    """SHA-256 of a file, as a hexadecimal number."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DamagedFileError(ValueError):
    """A file that has other bytes than are listed.

    Args:
        path: of the file.
        reason: the whole message.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path


class CheckedFile:
    """A file that has to have the bytes of a SHA-256.

    All bytes are read at the first check, and again only if size, times or inode are no longer those of the last one:
    whatever writes to a file changes its ctime, which no program can set. Nothing is remembered beyond the object.

    Args:
        path: of the file.
        digest: its SHA-256 as a hexadecimal number.
        role: for the messages ("a file of an encoder").
    """

    def __init__(self, path: Path, digest: str, role: str) -> None:
        self.path, self.digest, self.role = path, digest, role
        self._seen: tuple[int, ...] = ()
        self._lock = threading.Lock()

    def check(self) -> Path:
        """The path. FileNotFoundError if there is no file, DamagedFileError if it has other bytes. For any thread."""
        with self._lock:
            if not self.path.is_file():
                raise FileNotFoundError(f"{self.path} is missing, {self.role}; the folder is incomplete")
            status = self.path.stat()
            state = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            if state != self._seen:
                if (found := sha256(self.path)) != self.digest:
                    how = "changed after it was loaded" if self._seen else "truncated or changed"
                    hashes = f"sha256 {found[:12]}..., {self.digest[:12]}... is listed"
                    raise DamagedFileError(self.path, f"{self.path} has {hashes}: {how}")
                self._seen = state
            return self.path


@contextmanager
def checking(files: Iterable[CheckedFile]) -> Iterator[None]:
    """Check files in threads while the block works; an error comes from the block's own check of a file."""
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sha256")
    try:
        for file in files:
            pool.submit(file.check)
        yield
    finally:
        pool.shutdown(cancel_futures=True)


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files, in order, as a hexadecimal number; the files are read by threads."""
    digest, paths = hashlib.sha256(), list(paths)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sha256") as pool:
        for path, content in zip(paths, pool.map(sha256, paths), strict=True):
            digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()
