"""Encoders, denoisers and samplers by name.

    from ediffi.registry import denoisers
    denoisers.names("unet*")
    denoisers.create("unet_toybox", channels=96)

Each of the three modules has its factories (`ediffi.registry.denoisers.unet_toybox`, as YAML recipes write it) and the
methods of its `Registry`: `names`, `create`, `describe`, `register`.
"""

# The folder stands at the top of the checkout too: under a second name its classes would not be the package's own.
if __name__ != "ediffi.registry":
    raise ImportError(f"this package is imported as ediffi.registry, not as {__name__}")
