"""Files and folders that are either whole or not there, and the hashes they are known by."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
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


def sha256(path: Path) -> str:
    """SHA-256 of a file, as a hexadecimal number."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over names and sizes of files, in order, as a hexadecimal number."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()
