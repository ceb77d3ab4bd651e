"""What a pass comes to: the metrics by name, and what a reader of them has to know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ediffi.evaluation.metrics.features import DEFAULT, FeatureExtractor
from ediffi.evaluation.metrics.frechet import frechet_distance
from ediffi.evaluation.metrics.kid import kid
from ediffi.evaluation.metrics.precision_recall import NEIGHBOURHOOD, precision_recall
from ediffi.evaluation.metrics.reference import Reference
from ediffi.evaluation.metrics.rows import Rows

FEW = 2048
"""Of fewer pictures than this, a FID is said to be of few: the width of its features."""


@dataclass(frozen=True)
class Summary:
    """Numbers and notices.

    Attributes:
        metrics: the Fréchet distance under its name (see `frechet_name`); "kid_mean", "kid_std", "precision", "recall",
            "f_score" in the same features; "clip_score"; and what the data set measures itself.
        notices: a sentence each.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    notices: Sequence[str] = ()


def frechet_name(extractor: FeatureExtractor) -> str:
    """What the Fréchet distance of an extractor's features is called.

    "fid" is torch-fidelity's Inception at layer 2048 and nothing else. The rest is "frechet_" and the extractor:
    "frechet_clip" for the CLIP that scores, "frechet_dinov2-vit-l-14"; a layer of Inception is named too,
    "frechet_inception-v3-compat_768".
    """
    if extractor.name != DEFAULT:
        return f"frechet_{extractor.name}"
    return "fid" if extractor.layer == "2048" else f"frechet_{extractor.name}_{extractor.layer}"


def summarise(rows: Rows, extractor: FeatureExtractor | None = None, reference: Reference | None = None) -> Summary:
    """Metrics and notices of pictures that have been measured.

    Args:
        rows: of the generated pictures.
        extractor: whose features they have; None for none.
        reference: the real ones; without it nothing is compared. Where it has no features there is no KID, precision
            or recall; of fewer than four pictures there is no precision or recall.

    Raises:
        ValueError: the reference is of another extractor.
    """
    metrics: dict[str, float] = {}
    notices = _of_pictures(rows)
    if extractor and reference:
        if reference.protocol["feature_extractor"] != dict(extractor.protocol):
            raise ValueError("the reference statistics are of another feature extractor than the pictures' features")
        name, moments = frechet_name(extractor), rows.moments()
        metrics[name] = frechet_distance(moments.mean, moments.cov, reference.mean, reference.cov)
        if reference.file:
            generated, real = rows.features(), reference.features()
            metrics |= kid(generated, real)
            if min(len(generated), len(real)) > NEIGHBOURHOOD:
                metrics |= precision_recall(generated, real)
        notices += _of_numbers(name, len(rows), extractor.width, reference)
    if rows.table.layout.scored:
        metrics["clip_score"] = rows.clip_score()
    return Summary(metrics | rows.measured(), notices)


def _of_pictures(rows: Rows) -> list[str]:
    notices = [f"{count} pictures were {kind} and were converted to 8-bit RGB" for kind, count in rows.odd.items()]
    if rows.broken:
        numbers = ", ".join(map(str, rows.broken[:5])) + (", ..." if len(rows.broken) > 5 else "")
        notices.append(f"{len(rows.broken)} pictures could not be read and were left out: numbers {numbers}")
    return notices


def _of_numbers(name: str, count: int, width: int, reference: Reference) -> list[str]:
    notices = []
    few = min(count, reference.count or count)
    if few < FEW:
        beside = ", and KID beside it, which has no such bias" if reference.file else ""
        notices.append(
            f"{name} is of {few} pictures: below {FEW} it is biased upwards; compare it at equal numbers only{beside}"
        )
    if few <= width:
        notices.append(f"the covariance of {few} rows of {width} numbers has not full rank")
    if reference.protocol["foreign"]:
        notices.append(
            f"the reference statistics are those of {reference.protocol['file']}: "
            "how its pictures were chosen and resized is not known here"
        )
    return notices
