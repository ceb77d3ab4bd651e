"""`ediffi recipes`: the YAML files that training starts from."""

from fnmatch import fnmatchcase
from pathlib import Path

from ediffi.io import files
from ediffi.registry.core import UnknownNameError

_PACKAGE = Path(__file__).resolve().parent.parent


def folder() -> Path:
    """Where the recipes are: inside the installed package, or at the top of a checkout."""
    shipped = _PACKAGE / "_recipes"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "recipes"


def names(pattern: str = "*") -> list[str]:
    """Names of the recipes that match the shell pattern, sorted: the path below the folder, "toybox/base"."""
    found = (path.relative_to(folder()).with_suffix("").as_posix() for path in folder().rglob("*.yaml"))
    return sorted(name for name in found if fnmatchcase(name, pattern))


def path_of(name: str) -> Path:
    """The file of the recipe called `name`, with or without .yaml; UnknownNameError lists the near names."""
    name = name.removesuffix(".yaml")
    if name not in names():
        raise UnknownNameError.among(names(), "recipe", name)
    return folder() / f"{name}.yaml"


def find(name: str | Path) -> Path:
    """The file of that name, or else the recipe that ships; UnknownNameError lists the near names."""
    if Path(name).is_file():
        return Path(name)
    try:
        return path_of(str(name))
    except UnknownNameError:
        raise UnknownNameError.among(names(), "file or recipe", str(name)) from None


def ls(pattern: str = "*", /) -> None:
    """List the recipes.

    Args:
        pattern: only those whose names match, as in "toybox/*"
    """
    if not (found := names(pattern)):
        raise UnknownNameError.among(names(), "recipe", pattern)
    width = max(map(len, names()))
    for name in found:
        first_line = path_of(name).read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:<{width}}  {first_line.removeprefix('#').strip()}")


def show(name: str) -> None:
    """Print a recipe.

    Args:
        name: the recipe, as `ediffi recipes ls` lists it
    """
    print(path_of(name).read_text(encoding="utf-8"), end="")


def cp(name: str, to: Path | None = None, /, *, force: bool = False) -> None:
    """Copy a recipe, to change it and train from the copy.

    Args:
        name: the recipe, as `ediffi recipes ls` lists it
        to: file or folder to copy to; this folder by default
        force: overwrite an existing file
    """
    source, target = path_of(name), to or Path()
    target = target / source.name if target.is_dir() else target
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; --force overwrites it")
    files.replace(target, source.read_bytes())
    print(target)


COMMANDS = (ls, show, cp)
