"""Encoders, denoisers and samplers by name.

    from ediffi.registry import denoisers
    denoisers.names("unet*")
    denoisers.create("unet_toybox", channels=96)

Each of the three modules has its factories (`ediffi.registry.denoisers.unet_toybox`, as YAML recipes write it) and the
methods of its `Registry`: `names`, `create`, `describe`, `register`.
"""
