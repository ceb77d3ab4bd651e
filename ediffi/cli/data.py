"""`ediffi data`: import, verify, describe, index and filter shards, and show a degradation. See also `ediffi embed`."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ediffi.cli import recipes
from ediffi.cli.parser import check_positive

if TYPE_CHECKING:
    from ediffi.data.cluster import RayCluster
    from ediffi.hub.config import Part

Engine = Literal["processes", "ray"]


def import_(
    folder: Path,
    /,
    *,
    out: Path,
    captions: Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    val: float = 0.05,
    image_size: int | None = None,
    shard_size: int = 1000,
    background: str = "white",
) -> None:
    """Make shards of your own images, in OUT/train and OUT/val: images with texts beside them, or a table of captions.

    A folder is searched for a metadata.csv (or .jsonl, .parquet) as in Hugging Face's image folders, for Parquet files
    with images in them, for a text beside each image (cat.jpg with cat.txt or cat.json), and for a table. Images that
    cannot be read are named and left out. The same command resumes an interrupted run.

    Args:
        folder: of the images; or a table whose images are in its folder.
        out: folder of the shards, as img2dataset writes them.
        captions: the table with the captions: .csv, .tsv, .jsonl or .parquet; found, if there is one.
        image_column: its column with the files of the images; found, where its name tells.
        caption_column: its column with the captions, or that field of the JSON beside each image; found, as above.
        val: share of the images for validation, by a hash of the name, at least one; 0 for none.
        image_size: make larger images smaller, to this shortest side, at least the `data.image_size` to train on; so
            photos of a camera are read faster.
        shard_size: samples of a shard.
        background: the colour under transparent images that are made smaller, or are not PNG or WebP.
    """
    from ediffi.data.importing.run import ImportRun
    from ediffi.data.importing.sources import Columns, find

    check_positive(image_size=image_size, shard_size=shard_size)
    if folder.is_file() and captions is None:
        folder, captions = folder.parent, folder
    found = find(folder, captions, Columns(image_column, caption_column), aside=out)
    print(found.line())
    ImportRun(found.entries, out, val, shard_size, image_size, background)()


def verify(shards: list[str], /, *, decode: bool = True, image_size: int | None = None) -> None:
    """Read shards completely, name every sample that training would trip over, and compare the shards with their index
    if there is one.

    Args:
        decode: also decode every image, caption and tensor; --no-decode is faster.
        image_size: also name images with a side below this, the `data.image_size` of a recipe.
    """
    from ediffi.data.embedding.estimate import format_bytes, plural
    from ediffi.data.survey import loss_lines
    from ediffi.data.verify import CheckedShard
    from ediffi.data.verify import verify as check
    from ediffi.io import urls

    check_positive(image_size=image_size)
    found = urls.expand(shards)
    total, unhashed = CheckedShard(f"{len(found)} shards"), 0
    for checked in check(found, decode, image_size or 0):
        total.add(checked)
        unhashed += not checked.has_hash
        for problem in checked.problems:
            print(problem)
    tally = total.tally
    print(f"{plural(len(found), 'shard')}, {plural(tally.samples, 'complete sample')}, {format_bytes(tally.bytes)}")
    for line in (*loss_lines(tally), *total.facts.lines()):
        print(line)
    if unhashed:
        print(f"{plural(unhashed, 'shard')} without an index to be compared with (ediffi data index)")
    if total.problems:
        raise ValueError(f"{plural(len(total.problems), 'problem')}, the first: {total.problems[0]}")


def stats(
    shards: list[str],
    /,
    *,
    output: Path | None = None,
    limit: int | None = None,
    encoders: list[str] = [],  # noqa: B006
) -> None:
    """Describe shards: sizes, captions, scores, embeddings, and the samples that training would skip.

    Of captions it tells the lengths, the words, and how many are repeated. Of embedded shards it also tells what their
    text encoders made of them: the share of unknown tokens, and how many different captions are read like another one.

    Args:
        output: a JSON file for all counts.
        limit: read only so many shards, spread evenly.
        encoders: tell this of these text encoders instead, as `ediffi embed` names them.
    """
    from ediffi.data.embedding import captions
    from ediffi.data.embedding.identity import build
    from ediffi.data.survey import survey
    from ediffi.io import files, urls

    check_positive(limit=limit)
    found = urls.expand(shards)
    chosen = found if limit is None else found[:: -(-len(found) // limit)]  # rounded up: at most `limit` shards
    surveyed = survey(chosen)
    read = captions.read_shards(build(encoders_of(encoders)), chosen) if encoders else captions.recorded(chosen)
    print(f"{len(chosen):,} of {len(found):,} shards")
    print(*surveyed.lines(), *(f"captions {reading.line(source)}" for source, reading in read.items()), sep="\n")
    if output is not None:
        content = {**surveyed.content(), "captions": {source: reading.record() for source, reading in read.items()}}
        files.replace(output, json.dumps(content, indent=1, ensure_ascii=False).encode())
        print(output)


def index(folder: Path, /) -> None:
    """Write index.json of shards that have none: samples, bytes, sha256 and image sizes of each, for `verify`, `embed`
    and `fit`. One of an earlier version, without the sizes, is completed.

    Args:
        folder: of the .tar files.
    """
    from ediffi.data.survey import loss_lines
    from ediffi.data.verify import write_folder_index

    path, total = write_folder_index(folder)
    lines = (*loss_lines(total.tally), *total.facts.lines())
    print(f"{total.tally.samples:,} complete samples", *lines, path, sep="\n")


def filter(
    shards: str,
    /,
    *,
    config: Path,
    output: str,
    short_side_above: int | None = None,
    measures: str | None = None,
    page: bool = True,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    engine: Engine = "processes",
    address: str = "auto",
) -> None:
    """Keep the samples of shards that pass a recipe's thresholds, and show what was kept and dropped.

    The same command resumes an interrupted run. The output has the filtered shards, their index, a report for each,
    and a page of histograms and examples.

    Args:
        shards: files or URLs with braces, as in 'in-{0000..0999}.tar', or a folder of .tar files, as of img2dataset.
        config: a recipe: `keep` has the thresholds, `measuring` the models that give the scores.
        output: folder of the filtered shards; with ray also a URL, of a store that all machines reach.
        short_side_above: the shorter side must have more pixels than this, instead of the file's number.
        measures: folder of the measured scores, which other recipes may share; in the output by default.
        page: write filter.png, which needs matplotlib.
        device: of CLIP.
    """
    from ediffi.data.filtering.filters import FilterRun, read_recipe
    from ediffi.data.filtering.page import write_page
    from ediffi.io.distributed import launch
    from ediffi.io.urls import expand, join

    if page and find_spec("matplotlib") is None:
        raise ValueError("filter.png needs matplotlib: pip install 'ediffi[plots]', or give --no-page")
    measuring, keep = read_recipe(recipes.find(config))
    if short_side_above is not None:
        keep = replace(keep, short_side_above=short_side_above)
    job = FilterRun(expand([shards]), output, measures or join(output, "measures"), measuring, keep)
    if (cluster := cluster_of(engine, address, device, devices, num_nodes)) is not None:
        from ediffi.data.filtering import on_ray

        total, rank = on_ray.filter(job, cluster), 0
    else:
        context = launch(device, devices, num_nodes)
        total, rank = job.run(context), context.rank
    if rank == 0:
        print(*total.notices(), total, sep="\n")
        if page:
            write_page(join(output, "filter.png"), job, total)
        print(join(output, "filter.png" if page else "index.json"))


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
    """Draw a sheet of degraded images: each at several strengths, and each operation alone.

    Args:
        output: a PNG file.
        pictures: image files; Toybox scenes by default.
        size: side of the images in pixels.
        scale: factor by which the low-resolution images are smaller.
        strengths: 0 is off, 1 is Real-ESRGAN's.
        draws: degradations of each image at each strength.
        seed: of the degradations.
    """
    from ediffi.data.degradation.degrade import Degradation
    from ediffi.data.degradation.sheet import read_images, render_images, write_sheet

    images = read_images(pictures, size) if pictures else render_images(3, size, seed)
    write_sheet(images, output, Degradation(scale), strengths, draws, seed)
    print(output)


def encoders_of(names: list[str]) -> "dict[str, Part]":
    """The encoders that `--encoders` names; a recipe that ships stands for its file."""
    from ediffi.data.embedding.identity import named_encoders

    shipped = len(names) == 1 and not Path(names[0]).exists() and names[0].removesuffix(".yaml") in recipes.names()
    return named_encoders([str(recipes.find(names[0]))] if shipped else names)


def cluster_of(engine: Engine, address: str, device: str, devices: int, num_nodes: int) -> "RayCluster | None":
    """The Ray cluster of a command, not connected yet; None for processes of its own."""
    if engine == "processes":
        if address != "auto":
            raise ValueError("--address is that of a Ray cluster: give --engine ray too")
        return None
    from ediffi.data.cluster import RayCluster

    check_positive(devices=devices)
    if num_nodes != 1:
        raise ValueError("--num-nodes is not for --engine ray: --devices counts the workers")
    return RayCluster(address, devices, device)


COMMANDS = (import_, verify, stats, index, filter, sheet)
