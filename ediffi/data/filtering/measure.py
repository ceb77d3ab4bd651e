"""What a filter has to know of every sample, measured once, shard by shard: size, caption, scores, a hash.

Measures do not depend on thresholds, so one folder of them serves the filters of all stages. One shard is the unit of
restart: its measures are there, or they are not.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ediffi.data.filtering.scorer import Measuring, Scorer
from ediffi.data.shards import caption_of, metadata_of, picture_of
from ediffi.data.tar import PICTURES, Raw, Tally, read_samples
from ediffi.io import urls
from ediffi.io.files import replace

FORMAT = "ediffi-measures-1"
HEXADECIMAL = 32
"""Digits of a hash that are kept: two different pictures in a billion share 128 bits with a probability of 1e-21."""


SCORES = ("alignment", "aesthetic")


@dataclass(frozen=True)
class Job:
    """A sample that waits for its scores: its row, its prepared picture [3, s, s], its caption."""

    row: int
    image: Tensor
    caption: str


@dataclass
class Measures:
    """Of the samples of a shard, in order; one list for each measure.

    Attributes:
        source: the shard, as it may be shown.
        sha256: of the shard.
        losses: what reading it left out.
        keys: of the samples.
        problems: what is broken, or None.
        sizes: width and height in pixels, or None where the picture is broken.
        captioned: whether there is a caption.
        hashes: 32 hexadecimal digits that duplicates share.
        alignment: cosine of picture and caption, or None.
        aesthetic: mark, or None.
        computed: how many scores were computed here.
        told: how many the shard told.
    """

    source: str
    sha256: str = ""
    losses: Mapping[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    problems: list[str | None] = field(default_factory=list)
    sizes: list[list[int] | None] = field(default_factory=list)
    captioned: list[bool] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    alignment: list[float | None] = field(default_factory=list)
    aesthetic: list[float | None] = field(default_factory=list)
    computed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCORES, 0))
    told: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCORES, 0))

    def write(self, path: Path) -> None:
        """Write them as JSON, beside its place and then into it."""
        content = {"format": FORMAT, **asdict(self)}
        replace(path, json.dumps(content, ensure_ascii=False, allow_nan=False).encode())

    @classmethod
    def read(cls, path: Path) -> "Measures":
        """What `write` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is another file, or broken.
        """
        try:
            content = json.loads(path.read_bytes())
            if content.pop("format") != FORMAT:
                raise ValueError("it has another format")
            made = cls(**content)
            lists = (made.problems, made.sizes, made.captioned, made.hashes, made.alignment, made.aesthetic)
            if any(len(one) != len(made.keys) for one in lists):
                raise ValueError("its lists have different lengths")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds no measures of a shard ({error}): remove it to measure again") from None
        return made


def measure(place: str, measuring: Measuring, scorer: Scorer) -> Measures:
    """Measure every sample of a shard; what is broken in it is noted, and stops nothing.

    Raises:
        OSError: the shard cannot be read.
    """
    tally = Tally()
    measures = Measures(urls.redact(place))
    waiting: list[Job] = []
    for raw in read_samples(place, tally, has_picture):
        if (job := _examine(raw, measures, measuring, scorer)) is not None:
            waiting.append(job)
        if len(waiting) == measuring.batch_size:
            _score(waiting, measures, scorer)
            waiting = []
    if waiting:
        _score(waiting, measures, scorer)
    measures.sha256, measures.losses = tally.sha256, tally.told()
    return measures


def _examine(raw: Raw, measures: Measures, measuring: Measuring, scorer: Scorer) -> Job | None:
    """Note all but the scores; those that the sample does not tell have to be computed from what is returned."""
    image, caption, known, problem = None, "", {}, None
    try:
        image = picture_of(raw)
        caption, known = caption_of(raw), metadata_of(raw)
    except ValueError:
        problem = "broken picture" if image is None else "broken caption or JSON"
    measures.keys.append(raw["__key__"])
    measures.problems.append(problem)
    measures.sizes.append(None if image is None else list(image.size))
    measures.captioned.append(bool(caption.strip()))
    measures.hashes.append(_hash(raw, image, measuring.hash))
    for name, field_name in zip(SCORES, (measuring.similarity, measuring.aesthetic_score), strict=True):
        value = _number(known.get(field_name)) if field_name else None
        getattr(measures, name).append(value)
        measures.told[name] += value is not None
    if problem or image is None or all(getattr(measures, name)[-1] is not None for name in SCORES):
        return None
    prepared = scorer.prepare(image)
    return None if prepared is None else Job(len(measures.keys) - 1, prepared, caption)


def _score(jobs: list[Job], measures: Measures, scorer: Scorer) -> None:
    """Compute the scores that are missing."""
    scores = scorer(torch.stack([job.image for job in jobs]), [job.caption for job in jobs])
    for job, found in zip(jobs, scores, strict=True):
        for name, value in zip(SCORES, found, strict=True):
            values = getattr(measures, name)
            if values[job.row] is None and value is not None and math.isfinite(value):
                values[job.row] = round(value, 6)
                measures.computed[name] += 1


def _hash(raw: Raw, image: Image.Image | None, kind: Literal["bytes", "perceptual"]) -> str:
    if kind == "perceptual" and image is not None:
        import imagehash

        return str(imagehash.phash(image)).zfill(HEXADECIMAL)
    return hashlib.sha256(next(raw[suffix] for suffix in PICTURES if suffix in raw)).hexdigest()[:HEXADECIMAL]


def _number(value: Any) -> float | None:
    """A score as the JSON of a sample tells it, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def has_picture(raw: Raw) -> str | None:
    """What a sample lacks to be measured."""
    return None if any(suffix in raw for suffix in PICTURES) else "no picture"
