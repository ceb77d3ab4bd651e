"""The images of a page: every system's image of a caption beside the others', at each guidance scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ediffi.evaluation.naming import distance
from ediffi.evaluation.results import Point, Results
from ediffi.io.images import rgb
from ediffi.io.page import data_uri

SCRIPT = Path(__file__).with_name("gallery.js")
SIDE = 192
"""Longest side of an image on the page."""


class ReportSample(NamedTuple):
    """An image to show, of any size, with the dataset's verdict; `right` is None if it is neither right nor wrong."""

    caption: str
    image: Image.Image
    verdict: str | None = None
    right: bool | None = None
    number: int | None = None  # of the caption in its suite
    note: str = ""  # such as its CLIP score
    score: float | None = None  # by which systems are told apart


class Figure(NamedTuple):
    """An image on the page, with its setting."""

    title: str
    scale: float | None  # guidance scale, if it is known
    shown: Mapping[str, Any]  # see `embedded`


class Row(NamedTuple):
    """A caption, and the images of each system."""

    caption: str
    number: int
    spread: float  # how much the systems differ
    systems: Sequence[tuple[str, Sequence[Figure]]]


@dataclass(frozen=True)
class Gallery:
    """The images of a page."""

    rows: Sequence[Row]
    scales: Sequence[float]  # all guidance scales
    several: bool  # systems
    start: int = 0  # the guidance scale that is shown first
    differ: str = ""  # by what the systems differ, in words; empty if they are not compared
    which: str = ""  # which captions of how many, in a sentence; empty of all


def gallery(
    systems: Sequence[tuple[Results, Mapping[str, Sequence[ReportSample]]]],
    spreads: Mapping[int, float] | None = None,
    differ: str = "",
) -> Gallery | None:
    """The images of systems, by the names of their points; captions that several have stand in one row.

    `spreads` says by the number of a caption how much the systems differ; the rows are in its order. None: no images.
    """
    rows: dict[int, tuple[str, dict[str, list[Figure]]]] = {}
    scales, numbers = set[float](), dict[str, int]()
    for results, samples in systems:
        for point in results.in_order:
            for sample in samples.get(point.name, ()):
                number = sample.number
                if number is None:  # captions tell which images belong together
                    number = numbers.setdefault(sample.caption, len(numbers))
                _, own = rows.setdefault(number, (sample.caption, {}))
                own.setdefault(results.model, []).append(Figure(point.title, point.guidance_scale, embedded(sample)))
            if samples.get(point.name) and point.guidance_scale is not None:
                scales.add(float(point.guidance_scale))
    known = spreads or {}
    ordered = sorted(rows, key=lambda number: (-known.get(number, 0.0), number))
    found = [Row(rows[n][0], n, known.get(n, 0.0), list(rows[n][1].items())) for n in ordered]
    first, listed = headline_point(systems[0][0]).guidance_scale, sorted(scales)
    start = listed.index(first) if first in listed else 0
    return Gallery(found, listed, len(systems) > 1, start, differ) if found else None


def embedded(sample: ReportSample) -> dict[str, Any]:
    """A sample for the page: `source` is a data URI; a `coarse` image has few pixels and is not smoothed."""
    image = rgb(sample.image)
    coarse = max(image.size) < SIDE
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return sample._asdict() | {"source": data_uri(image, "png", "jpeg", quality=88), "coarse": coarse}


def headline_point(results: Results) -> Point:
    """The point of an evaluation that stands for it beside others: the one with the lowest distance, or the first."""
    return results.best(distance([results])) or results.in_order[0]
