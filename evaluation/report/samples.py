"""Pictures on the page: small, inside it, each with its caption and what the data set says of it."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from ediffi.io.images import rgb

SIDE = 192
"""Longest side of a picture on the page."""


class Sample(NamedTuple):
    """A picture to show.

    Attributes:
        caption: what it was made from.
        image: the picture, of any size.
        verdict: what the data set says of it, in a few words.
        right: whether that is good; None if it is neither.
    """

    caption: str
    image: Image.Image
    verdict: str | None = None
    right: bool | None = None


class Shown(NamedTuple):
    """A picture as the page has it: `source` is a data URI."""

    caption: str
    source: str
    verdict: str | None
    right: bool | None
    coarse: bool


@dataclass(frozen=True)
class Wall:
    """Pictures of several settings.

    Attributes:
        columns: the settings.
        rows: each a caption and its picture of every setting, where all settings were given the same captions.
        cards: the pictures of each setting, where they were not, or where there is one setting.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Shown]]]
    cards: Sequence[tuple[str, Sequence[Shown]]]


def judged(caption: str, image: Image.Image, measured: Mapping[str, float]) -> Sample:
    """A sample with the verdict in what the data set measured: "right", or "wrong: shape, colour".

    Args:
        caption: what it was made from.
        image: the picture.
        measured: as from the data set's `measure`: 1 is right, less is wrong, nan does not count. Names that begin with
            "everything" sum up the others and are not repeated.
    """
    fields = {name.rpartition("/")[2]: value for name, value in measured.items() if math.isfinite(value)}
    fields = {name: value for name, value in fields.items() if not name.startswith("everything")}
    if not fields:
        return Sample(caption, image)
    wrong = [name for name, value in fields.items() if value < 1]
    return Sample(caption, image, f"wrong: {', '.join(wrong)}" if wrong else "right", not wrong)


def wall(samples: Mapping[str, Sequence[Sample]]) -> Wall | None:
    """The pictures of each setting beside each other; None if there are none."""
    groups = [(title, [_shown(sample) for sample in group]) for title, group in samples.items() if group]
    if not groups:
        return None
    columns = [title for title, _ in groups]
    captions = [[shown.caption for shown in group] for _, group in groups]
    if len(groups) == 1 or any(one != captions[0] for one in captions):
        return Wall(columns, [], groups)
    rows = list(zip(*(group for _, group in groups), strict=True))
    return Wall(columns, list(zip(captions[0], rows, strict=True)), [])


def _shown(sample: Sample) -> Shown:
    image = rgb(sample.image)
    coarse = max(image.size) < SIDE
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Shown(sample.caption, _data_uri(image), sample.verdict, sample.right, coarse)


def _data_uri(image: Image.Image) -> str:
    """A picture as text: PNG or JPEG, whichever is shorter."""
    files = {}
    for kind in ("png", "jpeg"):
        file = io.BytesIO()
        image.save(file, kind, optimize=True, quality=88)
        files[kind] = file.getvalue()
    kind = min(files, key=lambda name: len(files[name]))
    return f"data:image/{kind};base64,{base64.b64encode(files[kind]).decode()}"
