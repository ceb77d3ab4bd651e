"""Numbers from outside: checked for their kind and range where they enter, with one sentence for what is wrong."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any


def check_number(name: str, value: Any, allowed: Callable[[Any], bool], words: str, kind: type = float) -> None:
    """ValueError unless `value` is a number of a kind (int or float; no bool) that is `allowed`, which is `words`.

    An integer is a float too; NumPy's scalars are numbers. NaN is never allowed by a comparison.
    """
    expected = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, expected):
        raise ValueError(f"{name} must be {'an integer' if kind is int else 'a number'}, {words}, got {value!r}")
    if not allowed(value):
        raise ValueError(f"{name} must be {words}, got {value}")


def is_number(value: Any) -> bool:
    """Whether it is a number, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_pair(value: Any) -> bool:
    """Whether it is a sequence of two numbers."""
    return isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))
