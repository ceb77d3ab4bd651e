"""`ediffi experts MODEL`: who owns which noise."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ediffi.diffusion.noise import LogNormal
    from ediffi.hub.config import ListedExpert

HEAD = ("level", "index", "sigma", "share", "parent", "steps", "parameters", "file")


def experts(model: str, /, stage: str | None = None, output: Path | None = None) -> None:
    """List the experts of a model's stages: noise, parent, steps trained, parameters, file.

    Args:
        model: the shipped "toybox", a folder, or ORG/REPO of the Hub.
        stage: only this one.
        output: also draw the stages' noise and who owns it, as a PNG file.
    """
    from ediffi.diffusion.noise import LogNormal, check_partition
    from ediffi.hub.config import listed_experts, read_config
    from ediffi.pipeline.checkpoint import find_stage, locate
    from ediffi.pipeline.stage import Sampling

    place = locate(model)
    entries = read_config(place)["stages"]
    chosen = [find_stage(model, stage)[1]] if stage is not None else entries
    drawn = []
    for entry in chosen:
        noise, rows = LogNormal(**entry["noise"]), listed_experts(entry)
        check_partition([row.expert.region for row in rows])
        print(f"{entry['name']}, {entry['denoiser']['name']}, ln sigma ~ N({noise.mean:g}, {noise.std:g}²)")
        _print([HEAD, *(_cells(place, noise, row) for row in rows)])
        drawn.append((entry["name"], noise, [row.expert for row in rows], Sampling(**entry["sampling"]).sigmas()))
    if output is not None:
        from ediffi.pipeline.figures import expert_noise

        expert_noise(drawn, output)
        print(output)


def _cells(place: Path, noise: "LogNormal", row: "ListedExpert") -> tuple[str, ...]:
    from ediffi.diffusion.noise import Interval
    from ediffi.diffusion.streaming import parameters
    from ediffi.hub.config import verified_file

    region, parent = row.expert.region, row.expert.parent
    share = float(sum(high - low for low, high in region.spans))
    node = (str(region.level), str(region.index)) if isinstance(region, Interval) else ("-", "-")
    return (
        *node,
        ", ".join(f"{low:.4g} to {high:.4g}" for low, high in noise.bounds(region)),
        f"{100 * share:.3g} %",
        "-" if parent is None else str(parent),
        str(row.expert.steps),
        f"{parameters(verified_file(place, row)) / 1e6:.2f} M",
        row.file,
    )


def _print(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
