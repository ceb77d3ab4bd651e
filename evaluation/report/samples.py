"""Images on the page: small, inside it, each with its caption and the dataset's verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from ediffi.io.images import rgb
from ediffi.io.page import data_uri

SIDE = 192
"""Longest side of an image on the page."""


class ReportSample(NamedTuple):
    """An image to show, of any size, with the dataset's verdict; `right` is None if it is neither right nor wrong."""

    caption: str
    image: Image.Image
    verdict: str | None = None
    right: bool | None = None


class EmbeddedSample(NamedTuple):
    """An image in the page: `source` is a data URI; a `coarse` image has few pixels and is not smoothed."""

    caption: str
    source: str
    verdict: str | None
    right: bool | None
    coarse: bool


class SampleGrid(NamedTuple):
    """Images of several settings: rows by caption if all settings have the same captions, else cards by setting."""

    settings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[EmbeddedSample]]]
    cards: Sequence[tuple[str, Sequence[EmbeddedSample]]]


def judged_sample(caption: str, image: Image.Image, measured: Mapping[str, float]) -> ReportSample:
    """A sample with the verdict of the dataset's `measure`: "right", or "wrong: shape, colour".

    Of the measured values 1 is right, less is wrong, nan is ignored. Names that begin with "everything" summarise the
    others and are not repeated.
    """
    fields = {name.rpartition("/")[2]: value for name, value in measured.items() if math.isfinite(value)}
    fields = {name: value for name, value in fields.items() if not name.startswith("everything")}
    if not fields:
        return ReportSample(caption, image)
    wrong = [name for name, value in fields.items() if value < 1]
    return ReportSample(caption, image, f"wrong: {', '.join(wrong)}" if wrong else "right", not wrong)


def sample_grid(samples: Mapping[str, Sequence[ReportSample]]) -> SampleGrid | None:
    """The images of each setting beside each other; None if there are none."""
    groups = [(title, [_embedded(sample) for sample in group]) for title, group in samples.items() if group]
    if not groups:
        return None
    settings = [title for title, _ in groups]
    captions = [[sample.caption for sample in group] for _, group in groups]
    if len(groups) == 1 or any(one != captions[0] for one in captions):
        return SampleGrid(settings, [], groups)
    rows = zip(*(group for _, group in groups), strict=True)
    return SampleGrid(settings, list(zip(captions[0], rows, strict=True)), [])


def _embedded(sample: ReportSample) -> EmbeddedSample:
    image = rgb(sample.image)
    coarse = max(image.size) < SIDE
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    source = data_uri(image, "png", "jpeg", quality=88)
    return EmbeddedSample(sample.caption, source, sample.verdict, sample.right, coarse)
