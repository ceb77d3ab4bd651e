"""`ediffi experts MODEL`: the noise interval of each expert."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ediffi.diffusion.noise import LogNormal
    from ediffi.hub.config import ListedExpert

HEAD = ("level", "index", "sigma", "share", "parent", "steps", "parameters", "file")


def experts(model: str, /, stage: str | None = None, output: Path | None = None) -> None:
    """List the experts of a model's stages: noise, parent, training steps, parameters, file.

    Args:
        stage: only this stage.
        output: a PNG file; also plot the training noise of each stage and the intervals of its experts.
    """
    from ediffi.diffusion.noise import LogNormal, check_partition
    from ediffi.hub.config import listed_experts, read_config
    from ediffi.pipeline.checkpoint import find_stage, locate
    from ediffi.pipeline.stage import Sampling

    place = locate(model)
    chosen = read_config(place)["stages"] if stage is None else [find_stage(model, stage)[1]]
    plotted = []
    for entry in chosen:
        noise, listed = LogNormal(**entry["noise"]), listed_experts(entry)
        check_partition([one.expert.region for one in listed])
        print(f"{entry['name']}, {entry['denoiser']['name']}, ln sigma ~ N({noise.mean:g}, {noise.std:g}²)")
        rows: list[tuple[str, ...]] = [HEAD, *(_cells(place, noise, one) for one in listed)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        plotted.append((entry["name"], noise, [one.expert for one in listed], Sampling(**entry["sampling"]).sigmas()))
    if output is not None:
        from ediffi.pipeline.figures import expert_noise

        expert_noise(plotted, output)
        print(output)


def _cells(place: Path, noise: "LogNormal", listed: "ListedExpert") -> tuple[str, ...]:
    from ediffi.diffusion.noise import Interval
    from ediffi.diffusion.streaming import parameters
    from ediffi.hub.config import verified_file

    region, parent = listed.expert.region, listed.expert.parent
    share = float(sum(high - low for low, high in region.spans))
    node = (str(region.level), str(region.index)) if isinstance(region, Interval) else ("-", "-")
    return (
        *node,
        ", ".join(f"{low:.4g} to {high:.4g}" for low, high in noise.bounds(region)),
        f"{100 * share:.3g} %",
        "-" if parent is None else str(parent),
        str(listed.expert.steps),
        f"{parameters(verified_file(place, listed)) / 1e6:.2f} M",
        listed.file,
    )
