"""The metrics of a pass by name, and notices for their reader."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ediffi.evaluation.metrics.features import DEFAULT, FeatureExtractor
from ediffi.evaluation.metrics.frechet import frechet_distance
from ediffi.evaluation.metrics.kid import kid
from ediffi.evaluation.metrics.precision_recall import NEIGHBOURHOOD, precision_recall
from ediffi.evaluation.metrics.reference import ReferenceStatistics
from ediffi.evaluation.metrics.rows import Rows

FEW = 2048
"""A FID of fewer images gets a notice: the width of its features."""


class Summary(NamedTuple):
    """Metrics by name (see `frechet_name`, `kid`, `precision_recall`; "clip_score"; the dataset's own), and notices."""

    metrics: Mapping[str, float]
    notices: Sequence[str]


def frechet_name(extractor: FeatureExtractor) -> str:
    """The name of the Fréchet distance in an extractor's features.

    "fid" is torch-fidelity's Inception at layer 2048 and nothing else. Other names are "frechet_clip",
    "frechet_dinov2-vit-l-14", ...; another layer of Inception is "frechet_inception-v3-compat_768".
    """
    name, layer = extractor.protocol["name"], extractor.protocol["layer"]
    if name != DEFAULT:
        return f"frechet_{name}"
    return "fid" if layer == "2048" else f"frechet_{name}_{layer}"


def summarise(
    rows: Rows, extractor: FeatureExtractor | None = None, reference: ReferenceStatistics | None = None
) -> Summary:
    """Metrics and notices of generated images; without a reference nothing is compared.

    KID, precision and recall need the reference's features; precision and recall need four images. ValueError: the
    reference is of another extractor.
    """
    metrics: dict[str, float] = {}
    notices = [f"{count} images were {kind} and were converted to 8-bit RGB" for kind, count in rows.odd.items()]
    if rows.broken:
        numbers = ", ".join(map(str, rows.broken[:5])) + (", ..." if len(rows.broken) > 5 else "")
        notices.append(f"{len(rows.broken)} images could not be read and were left out: numbers {numbers}")
    if extractor and reference:
        if reference.protocol["feature_extractor"] != dict(extractor.protocol):
            raise ValueError("the reference statistics are of another feature extractor than the images' features")
        name, moments = frechet_name(extractor), rows.moments()
        metrics[name] = frechet_distance(moments.mean, moments.cov, reference.mean, reference.cov)
        if reference.file:
            generated, real = rows.features(), reference.features()
            metrics |= kid(generated, real)
            if min(len(generated), len(real)) > NEIGHBOURHOOD:
                metrics |= precision_recall(generated, real)
        notices += _distance_notices(name, len(rows), extractor.width, reference)
    if rows.files.layout.scored:
        metrics["clip_score"] = rows.clip_score()
    return Summary(metrics | rows.measured(), notices)


def _distance_notices(name: str, count: int, width: int, reference: ReferenceStatistics) -> list[str]:
    notices = []
    few = min(count, reference.count or count)
    if few < FEW:
        unbiased = "; KID has no such bias" if reference.file else ""
        advice = f"(fewer than {FEW}): compare it at equal numbers only{unbiased}"
        notices.append(f"{name} of {few} images is biased upwards {advice}")
    if few <= width:
        notices.append(f"the covariance of {few} rows of {width} numbers does not have full rank")
    if reference.protocol["foreign"]:
        source = f"the reference statistics come from {reference.protocol['file']}"
        notices.append(f"{source}: how its images were selected and resized is not known")
    return notices
