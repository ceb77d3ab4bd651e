"""What a dataset's measures say of one image, in words."""

import math
from collections.abc import Mapping


def verdict(measured: Mapping[str, float]) -> tuple[str | None, bool | None]:
    """The verdict and whether all is right: ("right", True), or ("wrong: shape, colour", False); None if nothing is
    measured.

    Of the measured values 1 is right, less is wrong, nan is ignored. Names that begin with "everything" summarise the
    others and are not repeated.
    """
    fields = {name.rpartition("/")[2]: value for name, value in measured.items() if math.isfinite(value)}
    fields = {name: value for name, value in fields.items() if not name.startswith("everything")}
    if not fields:
        return None, None
    wrong = [name for name, value in fields.items() if value < 1]
    return (f"wrong: {', '.join(wrong)}" if wrong else "right"), not wrong
