"""A registry: names for the parts of a recipe.

A part is a factory function; its name is its registered name. Registering is one decorator, and a factory so
registered is listed, described, built by name and addressed in YAML as `class_path: ediffi.registry.denoisers.unet_toybox`.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Factory = TypeVar("Factory", bound=Callable[..., Any])

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What names a repository of the Hub: "organisation/name"."""
HOUSE = "ediffi"
"""The distribution that this package is a part of."""


class UnknownNameError(ValueError):
    """A name that nothing is known under."""

    @classmethod
    def among(cls, known: Iterable[str], what: str, name: str) -> "UnknownNameError":
        """The error for `name`: no such `what` ("denoiser"), and the near names, or all that are known if none is."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        return cls(f"no {what} named {name!r}; {hint}")


class Registry(Generic[T]):
    """Factories of one kind of part, by name.

    Args:
        kind: what the parts are, in the plural ("denoisers"); used in messages and as the entry-point group
            `ediffi.<kind>`, from which other installed packages are picked up at the first look-up.

    Example:
        >>> colours = Registry[str]("colours")
        >>> @colours.register
        ... def crimson(strength: float = 1.0) -> str:
        ...     return f"crimson x {strength}"
        >>> colours.create("crimson", strength=2.0)
        'crimson x 2.0'
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}
        self._distributions: dict[str, str] = {}
        self._plugins_loaded = False

    def register(self, factory: Factory) -> Factory:
        """Register `factory` under its own name, and return it unchanged.

        Raises:
            ValueError: the name is taken by another factory.
        """
        name = factory.__name__
        taken = self._factories.get(name)
        if taken is not None and taken is not factory:
            raise ValueError(f"{self.kind}: {name!r} is already registered by {taken.__module__}.{taken.__qualname__}")
        self._factories[name] = factory
        return factory

    def factory(self, name: str) -> Callable[..., T]:
        """The factory registered under `name`.

        Raises:
            UnknownNameError: no such name; the message lists the near ones.
        """
        self._load_plugins()
        if name not in self._factories:
            raise UnknownNameError.among(self._factories, self.kind.removesuffix("s"), name)
        return self._factories[name]

    def create(self, name: str, /, **overrides: Any) -> T:
        """Build the part called `name`, with its own defaults except for `overrides`.

        Raises:
            UnknownNameError: no such name.
            ValueError: an override the factory does not take; the message lists those it takes.
        """
        factory = self.factory(name)
        parameters = inspect.signature(factory).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = [key for key in overrides if key not in parameters]
        if unknown and not takes_any:
            raise ValueError(f"{name} takes no argument {unknown[0]!r}; it takes {', '.join(parameters) or 'none'}")
        return factory(**overrides)

    def names(self, pattern: str = "*") -> list[str]:
        """Registered names that match the shell pattern, sorted."""
        self._load_plugins()
        return sorted(name for name in self._factories if fnmatchcase(name, pattern))

    def describe(self, name: str) -> str:
        """One text about the part: where it comes from, what it needs, its arguments, and its docstring."""
        factory = self.factory(name)
        signature = inspect.signature(factory)
        arguments = [f"  {parameter}" for parameter in signature.parameters.values()]
        bringer = self._distributions.get(name)
        heading = f"{name} ({self.kind}, from {factory.__module__}{f' of {bringer}' if bringer else ''})"
        needs = [f"needs {self.needs(name)}"] if self.needs(name) else []
        return "\n".join([heading, *needs, *arguments, "", inspect.getdoc(factory) or "(no description)"])

    def arguments(self, name: str) -> list[str]:
        """What the part takes, by name."""
        return list(inspect.signature(self.factory(name)).parameters)

    def origin(self, name: str) -> str:
        """The distribution that brings the part, with the version of a plug-in; its package, if none says so."""
        package = self.factory(name).__module__.partition(".")[0]
        return self._distributions.get(name, HOUSE if package == __name__.partition(".")[0] else package)

    def needs(self, name: str) -> str:
        """What the part cannot be built without, as its signature tells it: files, the Hub, or nothing ("").

        A `path` without a default is asked for; a default "organisation/name" is a repository of the Hub; what takes a
        `revision` looks there when nobody says otherwise.
        """
        parameters = inspect.signature(self.factory(name)).parameters
        if "path" in parameters and parameters["path"].default is inspect.Parameter.empty:
            return "files, given as path"
        defaults = [p.default for p in parameters.values() if isinstance(p.default, str)]
        repository = next((default for default in defaults if HUB_ID.fullmatch(default)), "")
        return f"the Hub: {repository}" if repository else "the Hub" if "revision" in parameters else ""

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._factories

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True  # before loading: a plug-in may itself look names up
        try:
            for entry_point in entry_points(group=f"ediffi.{self.kind}"):
                self.register(_load(entry_point))
                if entry_point.dist is not None:
                    self._distributions[entry_point.name] = f"{entry_point.dist.name} {entry_point.dist.version}"
        except ValueError:
            self._plugins_loaded = False  # so that the next look-up says it again, rather than missing a part
            raise


def _load(entry_point: EntryPoint) -> Callable[..., Any]:
    """The factory a plug-in offers, or a ValueError that names the plug-in."""
    plugin = f"the plug-in entry point {entry_point.name!r} ({entry_point.value})"
    try:
        factory: Callable[..., Any] = entry_point.load()
    except Exception as error:
        raise ValueError(f"{plugin} cannot be loaded: {type(error).__name__}: {error}") from error
    name = getattr(factory, "__name__", None)
    if name != entry_point.name:
        raise ValueError(f"{plugin} loads a factory named {name!r}; the two names must be equal")
    return factory
