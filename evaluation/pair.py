"""Two sets of images without captions: the distance of one to the other, as torch-fidelity's command measures it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ediffi.evaluation.code_state import made_by, versions
from ediffi.evaluation.images.found import all_images
from ediffi.evaluation.judge import SQUARE, reference_of
from ediffi.evaluation.metrics.features import FeatureExtractor
from ediffi.evaluation.metrics.intervals import LEVEL, METHOD
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.rows import Rows, read_layout
from ediffi.evaluation.metrics.summary import summarise
from ediffi.evaluation.results import Point, Results
from ediffi.io.distributed import DistributedContext


def compare_pair(
    images: Path,
    reference: Path,
    folder: Path,
    extractor: FeatureExtractor,
    cache: Path,
    image_size: int | None = None,
    command: str = "",
    context: DistributedContext | None = None,
    **options: Any,
) -> Results:
    """Measure images against reference images, each a folder or shards; the rows are written into `folder`.

    With `image_size` both are made square by `SQUARE`; without, all images of both must have one size.
    ValueError: they have not, or a set has one image.
    """
    context = context or DistributedContext()
    for place in (images, reference):
        if len(all_images(place)) < 2:
            raise ValueError(f"{place} has 1 image; a comparison needs at least 2 in each set")
    real = reference_of(reference, extractor, cache, image_size, context, **options)
    rows, made = folder / "rows" / images.resolve().name, all_images(images)
    sized: dict[str, Any] = {"size": image_size, "resize": SQUARE if image_size else None}
    context.together(partial(measure, made, rows, MetricNetworks(extractor), context=context, **sized, **options))
    layout = read_layout(rows)
    other = read_layout(real.file.parent) if real.file else None
    if layout and other and layout.size != other.size:
        first, second = ("x".join(map(str, one.size)) for one in (layout, other))
        raise ValueError(f"the images are {first}, and the reference images {second}: give --image-size")
    found = Rows.read(rows)
    summary = summarise(found, extractor, real)
    suite = {"name": reference.resolve().name, "dataset": "own", "count": len(found), "image_size": image_size}
    suite["about"] = f"compared with all images of {suite['name']}, without captions"
    protocol = {
        "images": {"size": image_size or list(layout.size if layout else ()), "sha256": made.fingerprint()},
        "reference": dict(real.protocol),
        "feature_extractor": dict(extractor.protocol),
        "intervals": {"level": LEVEL, "method": METHOD.replace("captions", "images")},
        "versions": versions(),
        **made_by(command),
    }
    intervals = summary.intervals(np.arange(len(found)))
    point = Point(images.resolve().name, len(found), summary.metrics, {}, summary.notices, intervals)
    return Results(images.resolve().name, suite, protocol, [point])
