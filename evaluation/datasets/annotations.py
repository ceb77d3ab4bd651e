"""Read annotation files of published datasets, with error messages that name what is missing or broken."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ediffi.io.progress import Progress


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError names a file that is not valid JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is broken or cut off, not valid JSON: {error}") from None


def stream(path: Path) -> Iterator[Any]:
    """The elements of the list in a JSON file, one after the other, with a progress bar.

    Memory contains one element at a time: all of Visual Genome's region descriptions would take more than 3 GB.
    ValueError names a file that is not valid JSON, or not a list.
    """
    try:
        import ijson
    except ModuleNotFoundError:
        raise ValueError(f"reading {path.name} needs ijson: pip install 'ediffi[eval]'") from None

    size, bar = path.stat().st_size, {"unit": "B", "unit_scale": True, "leave": False}
    with path.open("rb") as file, Progress.wrapattr(file, "read", total=size, desc=path.name, **bar) as read:
        if file.read(64).lstrip()[:1] not in {b"[", b""}:
            raise ValueError(f"{path} is not a list; is it another file of the dataset?")
        file.seek(0)
        try:
            yield from ijson.items(read, "item", use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            why = error.args[0] if error.args else error
            line = " ".join((why.decode(errors="replace") if isinstance(why, bytes) else str(why)).split())[:120]
            raise ValueError(f"{path} is broken or cut off, not valid JSON: {line}") from None


def entries(content: Any, what: str) -> list[dict[str, Any]]:
    """`content` as a list of JSON objects, else a ValueError that calls it `what`."""
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(f"{what} must be a list of JSON objects")
    return content


def integer(entry: dict[str, Any], key: str, what: str, least: int | None = 0) -> int:
    """The integer of at least `least` that an entry has under `key`, else a ValueError that calls the entry `what`."""
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{what} has the {key} {value!r:.60}; an integer{bound} is needed")
    return value


def tidy(text: str, what: str) -> str:
    """A text without white space around it, and with one space for any within it.

    ValueError calls it `what` if it has a lone surrogate, which no text encoder can read.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} has a lone surrogate (half a character): {text!a:.60}") from None
    return " ".join(text.split())
