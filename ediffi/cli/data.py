"""`ediffi data`: shards as they come, looked at and looked after."""

from pathlib import Path


def verify(shards: list[str], /, *, decode: bool = True) -> None:
    """Read shards to the last byte, and compare them with their index if there is one.

    Args:
        shards: files or URLs with braces, as in 'in-{0000..0999}.tar', or folders of .tar files.
        decode: decode every picture, caption and tensor as well; --no-decode is faster.
    """
    from ediffi.data.embedding.estimate import format_bytes, plural
    from ediffi.data.survey import loss_lines
    from ediffi.data.tar import Tally
    from ediffi.data.verify import verify as check
    from ediffi.io import urls

    total, problems, unhashed, count = Tally(), [], 0, 0
    for checked in check(urls.expand(shards), decode):
        count += 1
        total.add(checked.tally)
        unhashed += not checked.has_hash
        problems += checked.problems
    print(f"{plural(count, 'shard')}, {plural(total.samples, 'complete sample')}, {format_bytes(total.bytes)}")
    print(*loss_lines(total), sep="\n", end="\n" if total.dropped or total.skipped else "")
    if unhashed:
        print(f"{plural(unhashed, 'shard')} without an index to be compared with (ediffi data index)")
    if problems:
        print(*problems[1:20], sep="\n", end="\n" if problems[1:] else "")
        raise ValueError(f"{plural(len(problems), 'problem')}, the first: {problems[0]}")


def stats(shards: list[str], /, *, output: Path | None = None, limit: int | None = None) -> None:
    """Tell what is in shards: sizes, captions, scores, embeddings, and what would be left out.

    Args:
        shards: files or URLs with braces, as in 'in-{0000..0999}.tar', or folders of .tar files.
        output: a JSON file for all counts.
        limit: look at so many shards only, spread evenly.
    """
    import json

    from ediffi.data.survey import survey
    from ediffi.io import urls
    from ediffi.io.files import replace

    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    found = urls.expand(shards)
    chosen = found if limit is None else found[:: -(-len(found) // limit)]
    surveyed = survey(chosen)
    print(f"{len(chosen):,} of {len(found):,} shards")
    print(*surveyed.lines(), sep="\n")
    if output is not None:
        replace(output, json.dumps(surveyed.content(), indent=1, ensure_ascii=False).encode())
        print(output)


def index(folder: Path, /) -> None:
    """Write index.json of shards from elsewhere: samples, bytes and sha256 of each, for `verify` and `ediffi embed`.

    Args:
        folder: of the .tar files.
    """
    from ediffi.data.survey import loss_lines
    from ediffi.data.verify import write_folder_index

    path, total = write_folder_index(folder)
    print(f"{total.samples:,} complete samples", *loss_lines(total), path, sep="\n")


def filter(
    shards: str,
    /,
    *,
    config: Path,
    output: Path,
    short_side_above: int | None = None,
    measures: Path | None = None,
    page: bool = True,
    device: str = "cpu",
    devices: int = 1,
    num_nodes: int = 1,
) -> None:
    """Measure shards, keep the samples that a recipe wants, and show what was kept and dropped.

    A run that was cut goes on with the shards that are missing. Beside the filtered shards stand their index, a report
    for each, and a page of histograms and examples.

    Args:
        shards: files or URLs with braces, as in 'in-{0000..0999}.tar', or a folder of .tar files, as img2dataset writes
        config: a YAML file; `keep` says the thresholds, `measuring` what the scores are measured with
        output: folder of the filtered shards
        short_side_above: the shortest side has more pixels than this; in place of what the file says
        measures: folder of what was measured, which other recipes may share; in the output by default
        page: draw filter.png, which shows what was kept and dropped; it needs matplotlib
        device: where CLIP stands
        devices: processes on each machine
        num_nodes: machines
    """
    from dataclasses import replace
    from importlib.util import find_spec

    from ediffi.data.filtering.filters import FilterRun, read_recipe
    from ediffi.data.filtering.page import write_page
    from ediffi.io.distributed import launch
    from ediffi.io.urls import expand

    if page and find_spec("matplotlib") is None:
        raise ValueError("filter.png needs matplotlib: pip install 'ediffi[plots]', or give --no-page")
    measuring, keep = read_recipe(config)
    if short_side_above is not None:
        keep = replace(keep, short_side_above=short_side_above)
    job = FilterRun(expand([shards]), output, measures or output / "measures", measuring, keep)
    fleet = launch(device, devices, num_nodes)
    total = job.run(fleet)
    if fleet.rank == 0:
        for notice in total.notices():
            print(notice)
        print(total)
        if page:
            write_page(output / "filter.png", job, total)
        print(output / ("filter.png" if page else "index.json"))


def sheet(
    output: Path = Path("degradation.png"),
    /,
    *,
    pictures: list[Path] | None = None,
    size: int = 256,
    scale: int = 4,
    strengths: list[float] = [0.25, 0.5, 1.0],  # noqa: B006
    draws: int = 3,
    seed: int = 0,
) -> None:
    """Draw a sheet of degraded pictures: each at several strengths, and the operations alone.

    Args:
        output: the PNG to write
        pictures: files; scenes of Toybox by default
        size: side of the pictures in pixels
        scale: how many times smaller their low-resolution pictures are
        strengths: 0 is off, 1 is Real-ESRGAN's
        draws: how often each picture is degraded at each strength
        seed: of what is drawn
    """
    from ediffi.data.degradation.degrade import Degradation
    from ediffi.data.degradation.sheet import read_images, render_images, write_sheet

    images = read_images(pictures, size) if pictures else render_images(3, size, seed)
    write_sheet(images, output, Degradation(scale), strengths, draws, seed)
    print(output)


COMMANDS = (verify, stats, index, filter, sheet)
