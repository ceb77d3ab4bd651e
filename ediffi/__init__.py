"""eDiff-I: text-to-image diffusion with an ensemble of expert denoisers.

    from ediffi import Cascade
    Cascade.from_pretrained("toybox")("a large red circle left of a small blue square").images[0].save("out.png")

The public names are imported on first use, so that `import ediffi` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ediffi.diffusion.editing import Edit as Edit
    from ediffi.diffusion.layout import Region as Region
    from ediffi.diffusion.layout import read_layout as read_layout
    from ediffi.pipeline.cascade import Cascade as Cascade
    from ediffi.pipeline.options import SamplingOptions as SamplingOptions
    from ediffi.pipeline.options import Style as Style
    from ediffi.pipeline.options import Switch as Switch
    from ediffi.registry import denoisers as denoisers
    from ediffi.registry import encoders as encoders
    from ediffi.registry import samplers as samplers

__version__ = "0.1.0"

_MODULES = {
    "Cascade": "ediffi.pipeline.cascade",
    "Edit": "ediffi.diffusion.editing",
    "Region": "ediffi.diffusion.layout",
    "SamplingOptions": "ediffi.pipeline.options",
    "Style": "ediffi.pipeline.options",
    "Switch": "ediffi.pipeline.options",
    "denoisers": "ediffi.registry.denoisers",
    "encoders": "ediffi.registry.encoders",
    "read_layout": "ediffi.diffusion.layout",
    "samplers": "ediffi.registry.samplers",
}
"""The module of each public name, or the module that it is."""
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ediffi' has no attribute {name!r}")
    module = importlib.import_module(_MODULES[name])
    return module if module.__name__.endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
