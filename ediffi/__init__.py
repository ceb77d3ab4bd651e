"""eDiff-I: text-to-image diffusion with an ensemble of expert denoisers.

    from ediffi import Cascade
    Cascade.from_pretrained("toybox")("a large red circle left of a small blue square").images[0].save("out.png")

Importing this package is light: what is heavy is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ediffi.pipeline.cascade import Cascade as Cascade

__version__ = "0.1.0"

_HOMES = {
    "Cascade": "ediffi.pipeline.cascade",
}
"""Where each public name stands."""
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ediffi' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
