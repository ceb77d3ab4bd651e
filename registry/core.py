"""A registry of factories by name, and factories that are variants of others.

The registered name of a factory is its function's name. Registering takes one decorator; then the factory is listed,
described, built by name, and usable in YAML as `class_path: ediffi.registry.denoisers.NAME`.
"""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
Factory = TypeVar("Factory", bound=Callable[..., Any])

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Matches the name of a repository on the Hub: "organisation/name"."""
DISTRIBUTION = "ediffi"


class UnknownNameError(ValueError):
    """A name that is not known."""

    @classmethod
    def among(cls, known: Iterable[str], what: str, name: str) -> "UnknownNameError":
        """The error for an unknown `what` ("denoiser") called `name`: lists the near names, or all if none is near."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        return cls(f"no {what} named {name!r}; {hint}")


class Registry(Generic[T]):
    """Factories by name.

    Args:
        kind: what the factories build, in the plural ("denoisers"). Plug-ins of installed packages are found in the
            entry-point group `ediffi.<kind>`, at the first look-up.

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
        """Register `factory` under its own name and return it unchanged; ValueError where another has the name."""
        name = factory.__name__
        taken = self._factories.get(name)
        if taken is not None and taken is not factory:
            raise ValueError(f"{self.kind}: {name!r} is already registered by {taken.__module__}.{taken.__qualname__}")
        self._factories[name] = factory
        return factory

    def factory(self, name: str) -> Callable[..., T]:
        """The factory registered under `name`; UnknownNameError lists the near names."""
        self._load_plugins()
        if name not in self._factories:
            raise UnknownNameError.among(self._factories, self.kind.removesuffix("s"), name)
        return self._factories[name]

    def create(self, name: str, /, **overrides: Any) -> T:
        """Call the factory `name` with its defaults, except for `overrides`.

        Raises:
            UnknownNameError: no such name.
            ValueError: the factory has no such argument; the message lists those it has.
        """
        factory = self.factory(name)
        parameters = inspect.signature(factory).parameters
        unknown = [key for key in overrides if key not in parameters]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(f"{name} takes no argument {unknown[0]!r}; it takes {', '.join(parameters) or 'none'}")
        return factory(**overrides)

    def names(self, pattern: str = "*") -> list[str]:
        """Registered names that match the shell pattern, sorted."""
        self._load_plugins()
        return sorted(name for name in self._factories if fnmatchcase(name, pattern))

    def describe(self, name: str) -> str:
        """The factory's origin, requirements, arguments and docstring."""
        factory = self.factory(name)
        arguments = [f"  {parameter}" for parameter in inspect.signature(factory).parameters.values()]
        plugin = self._distributions.get(name)
        heading = f"{name} ({self.kind}, from {factory.__module__}{f' of {plugin}' if plugin else ''})"
        needs = [f"needs {source}"] if (source := self.needs(name)) else []
        return "\n".join([heading, *needs, *arguments, "", inspect.getdoc(factory) or "(no description)"])

    def arguments(self, name: str) -> list[str]:
        """Names of the factory's arguments."""
        return list(inspect.signature(self.factory(name)).parameters)

    def origin(self, name: str) -> str:
        """The distribution that has the factory, with the version of a plug-in; its package if there is no such."""
        package = self.factory(name).__module__.partition(".")[0]
        return self._distributions.get(name, DISTRIBUTION if package == __name__.partition(".")[0] else package)

    def needs(self, name: str) -> str:
        """Source of the weights, as the signature tells: files, the Hub, or nothing ("").

        A `path` without a default means files of the user; a default "organisation/name" is a repository of the Hub; a
        `revision` means that the Hub is read by default.
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
            self._plugins_loaded = False  # so that the next look-up fails again, instead of missing a factory
            raise


def variant(
    parent: Callable[P, Any], *, without: Sequence[str] = (), **defaults: Any
) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Decorate a factory `def NAME(**arguments)` that takes the arguments of `parent`, with other defaults.

    The decorated factory has the signature of `parent` except for the arguments `without`, for `inspect`, for recipes
    and for type checkers, and the sections of its docstring. Its body gets all arguments, the defaults among them, by
    name. TypeError where `parent` has no such argument.
    """
    parameters = dict(inspect.signature(parent).parameters)
    if unknown := [name for name in (*defaults, *without) if name not in parameters]:
        raise TypeError(f"{parent.__name__} has no argument {unknown[0]!r}")
    kept = [p.replace(default=defaults.get(n, p.default)) for n, p in parameters.items() if n not in without]

    def decorate(factory: Callable[..., T]) -> Callable[P, T]:
        signature = inspect.signature(factory).replace(parameters=kept)

        @functools.wraps(factory)
        def build(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return factory(**bound.arguments)

        build.__annotations__ = {p.name: p.annotation for p in kept} | {"return": signature.return_annotation}
        vars(build)["__signature__"] = signature
        if sections := (inspect.getdoc(parent) or "").partition("\nArgs:\n")[2]:
            for name in without:
                sections = re.sub(rf"^    {name}:.*\n(     .*\n)*", "", sections, flags=re.MULTILINE)
            build.__doc__ = f"{inspect.getdoc(factory)}\n\nArgs:\n{sections}"
        return build

    return decorate


def _load(entry_point: EntryPoint) -> Callable[..., Any]:
    """The factory of a plug-in; a ValueError names the plug-in."""
    plugin = f"the plug-in entry point {entry_point.name!r} ({entry_point.value})"
    try:
        factory: Callable[..., Any] = entry_point.load()
    except Exception as error:
        renamed = isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] == "registry"
        hint = "; registry is imported as ediffi.registry" if renamed else ""
        raise ValueError(f"{plugin} cannot be loaded: {type(error).__name__}: {error}{hint}") from error
    name = getattr(factory, "__name__", None)
    if name != entry_point.name:
        raise ValueError(f"{plugin} loads a factory named {name!r}; the two names must be equal")
    return factory
