"""`ediffi registry`: what there is to build a recipe from."""

import importlib

from ediffi.cli import run
from registry.core import Registry, UnknownNameError

MENUS = ("encoders", "denoisers", "samplers")


def show(pattern: str = "*", /) -> None:
    """List the registered encoders, denoisers and samplers, or describe one.

    Args:
        pattern: a name such as unet_toybox, to see what it takes, or a pattern such as "unet*"

    Raises:
        UnknownNameError: nothing is called so.
    """
    menus: list[Registry[object]] = [importlib.import_module(f"registry.{menu}").REGISTRY for menu in MENUS]
    described = [menu.describe(pattern) for menu in menus if pattern in menu]
    if described:
        print("\n\n".join(described))
        return
    listed = {menu.kind: menu.names(pattern) for menu in menus}
    if not any(listed.values()):
        raise UnknownNameError.among({name for menu in menus for name in menu}, "part", pattern)
    print("\n\n".join("\n  ".join([kind, *names]) for kind, names in listed.items() if names))


def main(argv: list[str]) -> int:
    """Run `ediffi registry`."""
    return run(show, argv, "registry")
