"""eDiff-I: text-to-image diffusion with an ensemble of expert denoisers.

    from ediffi import Cascade
    picture, = Cascade.from_pretrained("toybox")("a large red circle left of a small blue square")

Importing this package is light: what is heavy is imported when it is first asked for.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import evaluation
    import registry
    from ediffi.cascade import Cascade

__all__ = ["Cascade", "__version__", "evaluation", "registry"]
__version__ = "0.1.0"

_HOUSE = Path(__file__).resolve().parent.parent


def check_house() -> None:
    """Make sure that `registry` and `evaluation`, which are generic names, are the ones that came with this package.

    Raises:
        ImportError: another file or folder goes by one of the names; the message says which, and what to do.
    """
    for name in ("registry", "evaluation"):
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ImportError(f"ediffi is incomplete: its package {name!r} is missing beside {_HOUSE / 'ediffi'}")
        folders = [Path(folder).resolve() for folder in spec.submodule_search_locations or []]
        if _HOUSE / name not in folders:
            raise ImportError(
                f"{spec.origin or folders[0]} shadows the package {name!r} that ediffi needs; "
                "run from another folder, or rename that file"
            )


def __getattr__(name: str) -> Any:
    if name in ("evaluation", "registry"):
        check_house()
        return importlib.import_module(name)
    if name == "Cascade":
        return importlib.import_module("ediffi.cascade").Cascade
    raise AttributeError(f"module 'ediffi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# As a program (`ediffi ...`, or `python -m ediffi`, where this line still sees "-m") the command line makes this check
# itself, to answer in one line instead of a stack trace.
if Path((sys.argv or [""])[0]).stem not in ("ediffi", "-m"):
    check_house()
