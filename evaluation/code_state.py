"""Which code computed a number: versions of the libraries, and the commit where ediffi runs from a checkout."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Final

LIBRARIES: Final = (
    "ediffi",
    "torch",
    "torchvision",
    "open_clip_torch",
    "torch-fidelity",
    "pillow",
    "numpy",
    "scipy",
)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that numbers depend on."""
    return {"python": python_version(), **{name: version(name) for name in LIBRARIES}}


def commit() -> dict[str, Any]:
    """The commit of the checkout that this package runs from, and whether its files were changed since; {} elsewhere.

    A package that is installed in somebody's repository, in its `.venv` say, has no commit of its own.
    """
    package = Path(__file__).resolve().parents[1]
    try:
        if Path(_git(package, "rev-parse", "--show-toplevel")).resolve() not in (package, package.parent):
            return {}
        changed = bool(_git(package, "status", "--porcelain", "--untracked-files=no"))
        return {"commit": _git(package, "rev-parse", "HEAD"), "changed_since": changed}
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {}


def made_by(command: str) -> dict[str, Any]:
    """The part of a protocol that says which command and which code computed the numbers."""
    return {"command": command, "code": commit()}


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
