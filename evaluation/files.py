"""Files that are either whole or not there, and what they are known by."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Write a file beside its place (`name.tmp`) and then into it."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(content)
    beside.replace(path)


def sha256(path: Path) -> str:
    """The hash of a file, as a hexadecimal number."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over names and sizes of files, in order, as a hexadecimal number."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()
