"""JSON from outside: one error, a ValueError, for text that is none, and for what is nested too deeply to be read."""

import json
from pathlib import Path
from typing import Any


def loads(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError if there is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read(path: Path) -> Any:
    """The value in a file of JSON. FileNotFoundError: there is no such file, or it is a pipe or a device, which may not
    end; ValueError as `loads`."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return loads(path.read_text(encoding="utf-8"))
