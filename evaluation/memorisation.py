"""Memorisation: the training images that generated ones are nearest to, and the share of images that are no copies."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ediffi.evaluation.images.found import all_images
from ediffi.evaluation.images.numbered import NumberedImages
from ediffi.evaluation.judge import SQUARE, reference_of
from ediffi.evaluation.metrics.features import FeatureExtractor
from ediffi.evaluation.metrics.intervals import LEVEL, intervals, mean
from ediffi.evaluation.metrics.manifold import nearest_real
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.rows import Rows
from ediffi.io.distributed import DistributedContext
from ediffi.io.files import replace
from ediffi.io.images import rgb
from ediffi.io.page import data_uri, write_page

TABLE, PAGE = "copies.csv", "copies.html"
TEMPLATE: Final = Path(__file__).with_name("copies.html.j2")
SIDE: Final = 192
"""Longest side of an image on the page."""


@dataclass(frozen=True)
class ClosestPair:
    """A generated image and the training image that it is nearest to, by their features."""

    image: int  # numbers in their sets
    training: int
    distance: float
    spacing: float  # the training image's own distance to the nearest other training image

    @property
    def ratio(self) -> float:
        """Distance over spacing: below 1 the image is nearer to a training image than training images are."""
        return self.distance / self.spacing if self.spacing else float("inf") if self.distance else 1.0


@dataclass(frozen=True)
class Memorisation:
    """The nearest training image of each generated one, the closest first, and the authenticity share."""

    images: NumberedImages
    training: NumberedImages
    pairs: Sequence[ClosestPair]
    authenticity: float  # share of images with a ratio above 1 (Alaa et al., arXiv 2102.08921)
    interval: tuple[float, float]
    extractor: str

    def __str__(self) -> str:
        low, high = self.interval
        closest, count = self.pairs[0], len(self.pairs)
        share = f"authenticity {self.authenticity:.3f} [{low:.3f}, {high:.3f}] of {count} images"
        names = f"{self.images.name(closest.image)} and {self.training.name(closest.training)}"
        return f"{share}; the closest pair is {names}, with a ratio of {closest.ratio:.3f}"


def find_copies(
    images: Path,
    training: Path,
    folder: Path,
    extractor: FeatureExtractor,
    cache: Path,
    image_size: int | None = None,
    context: DistributedContext | None = None,
    **options: Any,
) -> Memorisation:
    """Compare each image with all training images, each set a folder or shards; rows are written into `folder`.

    Features, not pixels, so that crops and changes of brightness are found too. It takes 2·n·m distances. With
    `image_size` both sets are made square. `options` are `strict` and `num_workers` of `measure`. ValueError: images
    differ in size and no size is given, or there are fewer than two in a set.
    """
    context = context or DistributedContext()
    real = reference_of(training, extractor, cache, image_size, context, **options)
    made, place = all_images(images), folder / "rows" / images.name
    sized: dict[str, Any] = {"size": image_size, "resize": SQUARE if image_size else None}
    context.together(partial(measure, made, place, MetricNetworks(extractor), context=context, **sized, **options))
    assert real.file is not None
    rows, known = Rows.read(place), Rows.read(real.file.parent)
    if (fewest := min(len(rows), len(known))) < 2:
        raise ValueError(f"2 images are needed, and {fewest} could be read")
    if rows.files.layout.size != known.files.layout.size:
        first, second = ("x".join(map(str, one.files.layout.size)) for one in (rows, known))
        raise ValueError(f"the images are {first}, and the training images {second}: give --image-size")
    nearest = nearest_real(rows.features(), known.features())
    columns = (rows.indices, known.indices[nearest.index], nearest.distance, nearest.spacing)
    pairs = [ClosestPair(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    share = mean(nearest.authentic.astype(float))
    ((low, high),) = intervals({"authenticity": share}, np.arange(len(pairs))).values()
    ordered = sorted(pairs, key=lambda pair: pair.ratio)
    return Memorisation(made, all_images(training), ordered, share.value, (low, high), extractor.protocol["name"])


def write(found: Memorisation, folder: Path, count: int = 24, command: str = "") -> Path:
    """Write `copies.csv`, a line for each image, and `copies.html` with the `count` closest pairs; returns the page."""
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(("image", "training_image", "distance", "training_distance", "ratio"))
    names = [(found.images.name(pair.image), found.training.name(pair.training)) for pair in found.pairs]
    for (image, known), pair in zip(names, found.pairs, strict=True):
        table.writerow((image, known, pair.distance, pair.spacing, pair.ratio))
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / TABLE, lines.getvalue().encode())
    shown = [
        {
            "ratio": f"{pair.ratio:.3f}",
            "authentic": pair.distance > pair.spacing,
            "images": [
                ("generated", image, _small(found.images[pair.image])),
                ("training", known, _small(found.training[pair.training])),
            ],
        }
        for (image, known), pair in zip(names[:count], found.pairs[:count], strict=True)
    ]
    values: dict[str, Any] = {
        "share": f"{found.authenticity:.3f}",
        "interval": [f"{end:.3f}" for end in found.interval],
    }
    values |= {"level": f"{LEVEL:.0%}", "count": len(found.pairs), "training": len(found.training)}
    return write_page(folder / PAGE, TEMPLATE, pairs=shown, extractor=found.extractor, command=command, **values)


def _small(image: Image.Image) -> str:
    small = rgb(image)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return data_uri(small, "png", "jpeg", quality=88)
