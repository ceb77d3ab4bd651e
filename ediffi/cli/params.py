"""`ediffi params`: the number of parameters of recipes, before anything is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ediffi.cli.parser import UsageError
from ediffi.cli.recipes import names, path_of
from ediffi.registry.core import UnknownNameError

if TYPE_CHECKING:
    from ediffi.training.estimate.params import EncoderParameters, NetworkParameters


def params(recipe: list[str], /) -> None:
    """Count the parameters that recipes build, on the meta device: nothing is loaded and nothing takes memory.

    A recipe of `ediffi fit` has a network, a growth schedule its experts, a recipe of `ediffi compose` the encoders.
    The total counts text encoders, as table 1 of the paper does, and not the CLIP that reads images.

    Args:
        recipe: files, or names as in ediffi recipes ls
    """
    paths = {name: find(name) for name in recipe}
    if len({path.resolve() for path in paths.values()}) < len(recipe):
        raise UsageError("the same recipe is given twice")
    from ediffi.training.estimate.params import count

    print(table({name: count(path) for name, path in paths.items()}))


def find(name: str) -> Path:
    """The file of that name, or the shipped recipe.

    Raises:
        UnknownNameError: there is neither; the message lists near names.
    """
    if Path(name).is_file():
        return Path(name)
    try:
        return path_of(name)
    except UnknownNameError:
        raise UnknownNameError.among(names(), "file or recipe", name) from None


def table(counted: Mapping[str, "NetworkParameters | EncoderParameters"]) -> str:
    """The parameters of each recipe by part, the sums, and which stages of a cascade are not among them."""
    from ediffi.training.estimate.params import EncoderParameters, NetworkParameters

    networks = {name: one for name, one in counted.items() if isinstance(one, NetworkParameters)}
    encoders = {name: one for name, one in counted.items() if isinstance(one, EncoderParameters)}
    blocks = [
        _networks(name, networks[name]) if name in networks else _encoders(name, encoders[name]) for name in counted
    ]
    return "\n\n".join("\n".join(block) for block in [*blocks, _sums(networks, encoders)] if block)


def _networks(name: str, one: "NetworkParameters") -> list[str]:
    parts = [_row(f"  {part}", number) for part, number in one.parts.items()]
    if not one.experts:
        return [f"{name}: {one.denoiser}", *parts, _row("  all parts", one.each)]
    many = f"{len(one.experts)} experts"
    heading = f"{name}: {one.denoiser}, {many}: {'; '.join(one.experts)}"
    return [heading, *parts, _row("  one expert", one.each), _row(f"  {many}", one.total)]


def _encoders(name: str, one: "EncoderParameters") -> list[str]:
    rows = [_row(f"  {encoder}", number) for encoder, number in one.texts]
    rows += [_row(f"  {encoder}", number) + "  not counted" for encoder, number in one.images]
    return [f"{name}: encoders", *rows, _row("  text encoders", one.total)]


def _sums(networks: Mapping[str, "NetworkParameters"], encoders: Mapping[str, "EncoderParameters"]) -> list[str]:
    trained, read = (sum(one.total for one in some.values()) for some in (networks, encoders))
    rows = [_row("all networks", trained)] if len(networks) > 1 or (networks and encoders) else []
    if networks and encoders:
        rows.append(_row("text encoders", read))
        rows.append(_row("total", trained + read) + "  counted as in table 1 of the paper: with text encoders")
    made = {one.run for one in networks.values()}
    stages = [(name, stage, run) for name, one in encoders.items() for stage, runs in one.runs.items() for run in runs]
    missing = [
        f"without stage {stage} of {name}: no recipe here makes {run}" for name, stage, run in stages if run not in made
    ]
    return rows + missing


def _row(label: str, number: int) -> str:
    return f"{label:<20}{readable(number):>12}"


def readable(number: int) -> str:
    """A number of parameters in millions, or in thousands where it is smaller: 715.3 M, 7.2 K."""
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} K"
