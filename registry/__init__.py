"""The parts of a recipe, by name: encoders, denoisers and samplers.

    from registry import denoisers
    denoisers.names("unet*")
    denoisers.create("unet_toybox", channels=96)

Each menu is a module with the factories themselves (`ediffi.registry.denoisers.unet_toybox`, the form YAML recipes use) and
the methods of its `Registry` (`names`, `create`, `describe`).
"""
