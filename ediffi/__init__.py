"""eDiff-I: text-to-image diffusion with an ensemble of expert denoisers.

    from ediffi import Cascade
    Cascade.from_pretrained("toybox")("a large red circle left of a small blue square").save("out.png")

The public names are imported on first use, so that `import ediffi` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ediffi.diffusion.editing import Edit as Edit
    from ediffi.diffusion.layout import Region as Region
    from ediffi.diffusion.layout import read_layout as read_layout
    from ediffi.pipeline.attention_maps import attention_maps as attention_maps
    from ediffi.pipeline.cascade import Cascade as Cascade
    from ediffi.pipeline.options import SamplingOptions as SamplingOptions
    from ediffi.pipeline.result import Images as Images
    from ediffi.pipeline.style import Style as Style
    from ediffi.pipeline.style import Switch as Switch
    from ediffi.registry import denoisers as denoisers
    from ediffi.registry import encoders as encoders
    from ediffi.registry import samplers as samplers
    from ediffi.registry.types import Conditioning as Conditioning

__version__ = "0.1.0"

_MODULES = {
    "Cascade": "ediffi.pipeline.cascade",
    "Conditioning": "ediffi.registry.types",
    "Edit": "ediffi.diffusion.editing",
    "Images": "ediffi.pipeline.result",
    "Region": "ediffi.diffusion.layout",
    "SamplingOptions": "ediffi.pipeline.options",
    "Style": "ediffi.pipeline.style",
    "Switch": "ediffi.pipeline.style",
    "attention_maps": "ediffi.pipeline.attention_maps",
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
    return module if name in ("denoisers", "encoders", "samplers") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
