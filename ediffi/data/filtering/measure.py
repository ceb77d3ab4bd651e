"""What a filter needs to know of every sample, measured once, shard by shard: size, caption, scores, a hash.

Measures do not depend on thresholds, so one folder of them serves the filters of all stages. The unit of resuming is a
shard: its file of measures exists, or it does not.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ediffi.data.filtering.scorer import Scorer, ScoreSettings
from ediffi.data.image_facts import image_bytes
from ediffi.data.shards import caption_of, image_of, metadata_of, reject_without_image
from ediffi.data.tar import RawSample, Tally, read_samples
from ediffi.io import plain_json, urls
from ediffi.io.images import color

HEXADECIMAL = 32  # digits of a hash: among a billion images, two share 128 bits with a probability of 1e-21
SCORES = ("alignment", "aesthetic")

Pending = tuple[int, Tensor, str]  # a sample without scores: its row, its prepared image [3, s, s], its caption


R = TypeVar("R", bound="Record")


class Record:
    """A dataclass that is kept as a JSON file, at a path or URL."""

    FORMAT: ClassVar[str]
    KIND: ClassVar[tuple[str, str]]  # what it is, and what the command does again once the file is removed

    def write(self, path: Path | str) -> None:
        """Write the file; `read` raises a ValueError if it has another format, or is broken."""
        content = {"format": self.FORMAT, **asdict(self)}  # type: ignore[call-overload]
        urls.write_bytes(str(path), json.dumps(content, ensure_ascii=False, allow_nan=False))

    @classmethod
    def read(cls: type[R], path: Path | str) -> R:
        """The content of a file that `write` wrote."""
        try:
            content = plain_json.loads(urls.read_bytes(str(path)))
            if content.pop("format") != cls.FORMAT:
                raise ValueError("it has another format")
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what, again = cls.KIND
            raise ValueError(f"{path} holds no {what} ({error}): remove it to {again} again") from None


@dataclass
class Measures(Record):
    """The samples of a shard, in order; one list for each measure."""

    FORMAT = "ediffi-measures-1"
    KIND = ("measures of a shard", "measure")

    source: str  # the shard's path or redacted URL
    sha256: str = ""
    losses: Mapping[str, Any] = field(default_factory=dict)  # what reading the shard left out
    keys: list[str] = field(default_factory=list)
    problems: list[str | None] = field(default_factory=list)  # what is broken
    sizes: list[list[int] | None] = field(default_factory=list)  # width and height; None for a broken image
    captioned: list[bool] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)  # hexadecimal digits that duplicates share
    alignment: list[float | None] = field(default_factory=list)  # cosines of image and caption
    aesthetic: list[float | None] = field(default_factory=list)
    computed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCORES, 0))  # scores computed here
    told: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCORES, 0))  # scores of the metadata

    def __post_init__(self) -> None:
        lists = (self.problems, self.sizes, self.captioned, self.hashes, self.alignment, self.aesthetic)
        if any(len(one) != len(self.keys) for one in lists):
            raise ValueError("its lists have different lengths")

    def values(self, name: str) -> np.ndarray:
        """One score of every sample, nan where there is none; "short_side" is in pixels."""
        if name == "short_side":
            return np.array([np.nan if size is None else min(size) for size in self.sizes], dtype=float)
        return np.array([np.nan if value is None else value for value in getattr(self, name)], dtype=float)


def measure(url: str, settings: ScoreSettings, scorer: Scorer) -> Measures:
    """Measure every sample of a shard; a broken sample is noted, and the rest measured."""
    tally, measures = Tally(), Measures(urls.redact(url))
    pending: list[Pending] = []
    for raw in read_samples(url, tally, reject_without_image):
        pending += _examine(raw, measures, settings, scorer)
        if len(pending) == settings.batch_size:
            _score(pending, measures, scorer)
            pending = []
    if pending:
        _score(pending, measures, scorer)
    measures.sha256, measures.losses = tally.sha256, tally.losses()
    return measures


def _examine(raw: RawSample, measures: Measures, settings: ScoreSettings, scorer: Scorer) -> list[Pending]:
    """Note everything but computed scores; returns the sample if a score has to be computed."""
    image, caption, known, problem = None, "", {}, None
    try:
        image = image_of(raw, color(settings.background))
        caption, known = caption_of(raw), metadata_of(raw)
    except ValueError:
        problem = "broken image" if image is None else "broken caption or JSON"
    measures.keys.append(raw["__key__"])
    measures.problems.append(problem)
    measures.sizes.append(None if image is None else list(image.size))
    measures.captioned.append(bool(caption.strip()))
    measures.hashes.append(_hash(raw, image, caption, settings.hash))
    for name, field_name in zip(SCORES, (settings.similarity, settings.aesthetic_score), strict=True):
        score = known.get(field_name) if field_name else None
        value = None
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
            value = float(score)
        getattr(measures, name).append(value)
        measures.told[name] += value is not None
    complete = all(getattr(measures, name)[-1] is not None for name in SCORES)
    if problem or image is None or complete or scorer.image is None:
        return []
    return [(len(measures.keys) - 1, scorer.prepare(image), caption)]


def _score(pending: list[Pending], measures: Measures, scorer: Scorer) -> None:
    """Compute the scores that are missing."""
    rows, images, captions = zip(*pending, strict=True)
    for name, scores in zip(SCORES, scorer(torch.stack(images), captions), strict=True):
        values = getattr(measures, name)
        for row, value in zip(rows, scores, strict=True):
            if values[row] is None and value is not None and math.isfinite(value):
                values[row] = round(value, 6)
                measures.computed[name] += 1


def _hash(raw: RawSample, image: Image.Image | None, caption: str, kind: Literal["bytes", "perceptual"]) -> str:
    content = image_bytes(raw)
    if kind == "perceptual" and image is not None:
        import imagehash

        content = f"{imagehash.phash(image)} {normalized(caption)}".encode()
    return hashlib.sha256(content).hexdigest()[:HEXADECIMAL]


def normalized(caption: str) -> str:
    """The words of a caption: without case, punctuation, and forms of the same letters."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", caption).casefold()))
