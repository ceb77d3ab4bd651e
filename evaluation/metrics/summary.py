"""The metrics of a pass by name, and notices for their reader."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ediffi.evaluation.metrics.features import CMMD, DEFAULT, FeatureExtractor
from ediffi.evaluation.metrics.frechet import frechet_distance, frechet_infinity, frechet_influence
from ediffi.evaluation.metrics.intervals import Measure, intervals, mean
from ediffi.evaluation.metrics.kid import kid
from ediffi.evaluation.metrics.manifold import DENSITY, manifold
from ediffi.evaluation.metrics.mmd import cmmd, kid_influence
from ediffi.evaluation.metrics.reference import ReferenceStatistics
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.metrics.variety import inception_score, vendi

NAMED = ("cmmd", "inception_score")
"""Metrics of one extractor, which their names imply."""
FEW = 2048
"""A FID of fewer images gets a notice: the width of its features."""
BELOW_ZERO = (
    "KID is below 0: its estimate assumes that images and reference are independent, and is then 0 on average for "
    "equal distributions; real images of the same captions are not independent, which lowers it"
)


class Summary(NamedTuple):
    """Metrics by name (see `frechet_name`, `compared`; "clip_score"; the dataset's own), and notices."""

    measures: dict[str, Measure]
    notices: Sequence[str]

    @property
    def metrics(self) -> dict[str, float]:
        """The values by name."""
        return {name: one.value for name, one in self.measures.items()}

    def intervals(self, units: np.ndarray) -> dict[str, tuple[float, float]]:
        """The interval of each metric that has one, `units` [n] being the numbers of the images' captions; empty if the
        images have one caption."""
        return intervals(self.measures, units) if units.max() > 0 else {}


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

    What `compared` measures needs the reference's features. ValueError: the reference is of another extractor.
    """
    measures: dict[str, Measure] = {}
    notices = [f"{count} images were {kind} and were converted to 8-bit RGB" for kind, count in rows.odd.items()]
    if rows.broken:
        numbers = ", ".join(map(str, rows.broken[:5])) + (", ..." if len(rows.broken) > 5 else "")
        notices.append(f"{len(rows.broken)} images could not be read and were left out: numbers {numbers}")
    if extractor and reference:
        if reference.protocol["feature_extractor"] != dict(extractor.protocol):
            raise ValueError("the reference statistics are of another feature extractor than the images' features")
        measures |= frechet(rows, frechet_name(extractor), reference)
        if reference.file:
            measures |= compared(rows, extractor, reference)
            if measures["kid_mean"].value < 0:
                notices.append(BELOW_ZERO)
        notices += _distance_notices(frechet_name(extractor), len(rows), extractor.width, reference)
    if rows.files.layout.scored:
        measures["clip_score"] = mean(rows.scores())
    measures |= {name: mean(values) for name, values in rows.measured().items()}
    return Summary(measures, notices)


def frechet(rows: Rows, name: str, reference: ReferenceStatistics) -> dict[str, Measure]:
    """The Fréchet distance `name`, and that of infinitely many images, "NAME_infinity", where there are enough of them;
    without influences where there are fewer images than numbers in a row."""
    moments, features = rows.moments(), rows.features()
    moved, there = None, (reference.mean, reference.cov)
    if moments.count > len(moments.mean):
        moved = frechet_influence(features, moments, *there)
    found = {name: Measure(frechet_distance(moments.mean, moments.cov, *there), moved, least=0)}
    if not np.isnan(infinity := frechet_infinity(features, *there)):
        found[f"{name}_infinity"] = Measure(infinity, moved)
    return found


def in_more_features(rows: Rows, extractor: FeatureExtractor, reference: ReferenceStatistics) -> dict[str, Measure]:
    """What is measured in the features of a further extractor, by names with its own: "frechet_NAME", "vendi@NAME"."""
    own = extractor.protocol["name"]
    found = compared(rows, extractor, reference)
    named = {name if "@" in name or name in NAMED else f"{name}@{own}": one for name, one in found.items()}
    return frechet(rows, frechet_name(extractor), reference) | named


def compared(rows: Rows, extractor: FeatureExtractor, reference: ReferenceStatistics) -> dict[str, Measure]:
    """What is computed of the features of generated and real images: KID, see `manifold`, Vendi; of a CLIP's, CMMD; of
    a classifier's, the Inception score. "cmmd" is of the CLIP of its paper, and "inception_score" of Inception."""
    generated, real, own = rows.features(), reference.features(), extractor.protocol["name"]
    moved = kid_influence(generated, real)
    measures = {
        name: Measure(value, moved if name == "kid_mean" else None) for name, value in kid(generated, real).items()
    }
    if min(len(generated), len(real)) > DENSITY:
        measures |= manifold(generated, real, reference.radii)[0]
    measures["vendi"] = vendi(generated)
    if extractor.protocol["layer"] == "image_embedding":
        measures["cmmd" if own == CMMD else f"cmmd@{own}"] = cmmd(generated, real)
    if (head := getattr(extractor, "head", None)) is not None:
        name = "inception_score" if own == DEFAULT else f"inception_score@{own}"
        measures[name] = inception_score(generated, head)
    return measures


def _distance_notices(name: str, count: int, width: int, reference: ReferenceStatistics) -> list[str]:
    notices = []
    few = min(count, reference.count or count)
    if few < FEW:
        unbiased = "; KID has no such bias" if reference.file else ""
        advice = f"(fewer than {FEW}): compare it at equal numbers only{unbiased}"
        what = "FID" if name == "fid" else "the Fréchet distance"
        notices.append(f"{what} of {few} images is biased upwards {advice}")
    if few <= width:
        notices.append(
            f"the covariance of {few} rows of {width} numbers does not have full rank, so the distance has no interval"
        )
    if reference.protocol["foreign"]:
        source = f"the reference statistics come from {reference.protocol['file']}"
        notices.append(f"{source}: how its images were selected and resized is not known")
    return notices
