"""Annotation files of published data sets, read with care: what is missing, broken or of another kind is named."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm


def read_json(path: Path) -> Any:
    """What stands in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # what is no UTF-8 is a ValueError as well
        raise ValueError(f"{path} is broken, not whole JSON: {error}") from None


def stream(path: Path) -> Iterator[Any]:
    """The elements of the list in a JSON file, one after the other, under a bar of bytes; by the library ijson.

    Memory holds one element at a time: Visual Genome's region descriptions would take more than 3 GB as a whole.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or no list; or ijson is not installed.
    """
    try:
        import ijson
    except ModuleNotFoundError:
        raise ValueError(f"{path.name} is read by ijson: pip install 'ediffi[eval]'") from None

    with (
        path.open("rb") as file,
        tqdm.wrapattr(
            file,
            "read",
            total=path.stat().st_size,
            desc=path.name,
            unit="B",
            unit_scale=True,
            disable=None,
            leave=False,
        ) as read,
    ):
        if file.read(64).lstrip()[:1] not in {b"[", b""}:
            raise ValueError(f"{path} holds no list; is it another file of the data set?")
        file.seek(0)
        try:
            yield from ijson.items(read, "item", use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is broken, not whole JSON: {_one_line(error)}") from None


def entries(content: Any, what: str) -> list[dict[str, Any]]:
    """A list of JSON objects; `what` names it in the message.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(f"{what} must be a list of JSON objects")
    return content


def whole(entry: dict[str, Any], key: str, what: str, least: int | None = 0) -> int:
    """The whole number that an entry has under `key`; `what` names the entry in the message.

    Raises:
        ValueError: there is none, or it is below `least`.
    """
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{what} has the {key} {value!r:.60}; a whole number{bound} is needed")
    return value


def tidy(text: str, what: str) -> str:
    """A text without white space around it, and with one space for any within it; `what` names it in the message.

    Raises:
        ValueError: it holds half a character, which no encoder could read.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half a character (a lone surrogate): {text!a:.60}") from None
    return " ".join(text.split())


def _one_line(error: Exception) -> str:
    text = error.args[0] if error.args else error
    return " ".join((text.decode(errors="replace") if isinstance(text, bytes) else str(text)).split())[:120]
