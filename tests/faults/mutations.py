"""Changes of bytes and of values that families share."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ODD: list[Any] = [True, None, -1, 0, 10**19, 1e300, float("nan"), float("inf"), "", "x", "x" * 10**5, [], {}, [[]]]
ODD += [{"a": 1}, [10**400], "\ud800", -(10**9), "../x", "/etc/passwd", 0.5, [1, "a"], list(range(10**5))]


def damage(rng: random.Random, path: Path, kind: str) -> None:
    """Change the bytes of a file."""
    content = bytearray(path.read_bytes())
    if kind == "bits":
        for _ in range(rng.choice([1, 1, 8])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "zeros":
        start = rng.randrange(len(content))
        content[start : start + rng.randrange(1, 4096)] = bytes(len(content[start : start + 4096]))
    path.unlink()
    path.write_bytes(content)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested dicts and lists."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(rng: random.Random, content: Any, remove: bool = False) -> Any:
    """A copy in which one value, anywhere, is of another type, or not there."""
    content = copy.deepcopy(content)
    *path, last = rng.choice(list(places(content)))
    inside = content
    for key in path:
        inside = inside[key]
    if remove:
        del inside[last]
    else:
        inside[last] = rng.choice([odd for odd in ODD if type(odd) is not type(inside[last])])
    return content
