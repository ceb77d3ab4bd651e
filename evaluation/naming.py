"""What the measures are called, which way is better, and which numbers may stand beside the paper's."""

from collections.abc import Mapping, Sequence

from ediffi.evaluation.results import Results

PAPER: Mapping[str, float] = {
    "eDiff-I, Config-D": 6.95,
    "eDiff-I, Config-C": 7.11,
    "Parti": 7.23,
    "eDiff-I, Config-B": 7.26,
    "Imagen": 7.27,
    "eDiff-I, Config-A": 7.35,
    "Stable Diffusion": 8.59,
    "DALL·E 2": 10.39,
    "GLIDE": 12.24,
}
"""Zero-shot FID-30K on COCO 2014 (eDiff-I, Table 1)."""

INCEPTION = ("inception-v3-compat", "6726825d")
"""torch-fidelity's name of the Inception that FID is defined by, and how the SHA-256 of its weights begins."""

GUIDANCE = "guidance_scale w: uncond + w (cond - uncond), 1 = off"
"""The convention of guidance scales here, where a protocol does not say its own."""

_NAMES = {"fid": "FID", "kid_mean": "KID", "kid_std": "KID, std", "clip_score": "CLIP score"}
_DATASETS = {"coco2014": "COCO 2014 validation", "visual-genome": "Visual Genome", "toybox": "Toybox"}


def is_distance(metric: str) -> bool:
    """Whether a metric is a Fréchet distance: "fid" in Inception's features, "frechet_clip" in others."""
    return metric == "fid" or metric.startswith("frechet_")


def distance(several: Sequence[Results]) -> str:
    """The name of the Fréchet distance that evaluations have; "fid" if they have none."""
    names = [name for results in several for point in results.points for name in point.metrics if is_distance(name)]
    return "fid" if "fid" in names or not names else names[0]


def less_is_better(metric: str) -> bool:
    """Whether a metric is a distance, or how far one scatters."""
    return is_distance(metric) or metric.startswith("kid")


def metric_name(metric: str) -> str:
    """A metric's name for people: "CLIP score"; of "oracle/shape" the last part, "Shape"."""
    if metric.startswith("frechet_"):
        return f"Fréchet distance, {_features(metric.removeprefix('frechet_'))}"
    last = metric.rpartition("/")[2].replace("_", " ")
    return _NAMES.get(metric, last[:1].upper() + last[1:])


def shown(metric: str, value: float | None) -> str:
    """A value as people read it: "7.35", "0.00123"; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.5f}" if metric.startswith("kid") else f"{value:.2f}" if metric in _NAMES else f"{value:.3f}"


def shortened(name: str, length: int = 44) -> str:
    """A name on one line, its middle left out if it is long."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length // 2) :]}"


def dataset_name(results: Results) -> str:
    """The data set's name for people."""
    name = str(results.suite.get("dataset", results.suite.get("name", "")))
    return _DATASETS.get(name, name)


def distance_name(results: Results) -> str:
    """What the Fréchet distance is: "FID" if the features are Inception's; else "Fréchet distance, CLIP features"."""
    extractor = _extractor(results)
    if extractor["name"] != INCEPTION[0]:
        return f"Fréchet distance, {_features(extractor['name'])}"
    if extractor["layer"] != "2048":
        return f"Fréchet distance, Inception features, layer {extractor['layer']}"
    other = [digest for digest in _hashes(extractor) if not digest.startswith(INCEPTION[1])]
    return f"FID, weights {other[0][:8]}" if other else "FID"


def measured_name(results: Results, metric: str) -> str:
    """A metric's name, of the Fréchet distance with what it was measured in."""
    return distance_name(results) if is_distance(metric) else metric_name(metric)


def clip_name(results: Results) -> str:
    """The CLIP that scored, "ViT-g-14, laion2b_s12b_b42k"; empty if none did."""
    return str((results.protocol.get("clip") or {}).get("name", ""))


def convention(results: Results) -> str:
    """What a guidance scale means, in words."""
    return str(results.protocol.get("guidance") or GUIDANCE)


def comparable_to_paper(results: Results) -> bool:
    """Whether its FID may stand beside the paper's Table 1.

    That takes a picture judged for each of 30,000 captions of COCO 2014, at 256², by the Inception that FID is defined
    by, against the data set's own pictures.
    """
    suite, extractor = results.suite, _extractor(results)
    foreign = (results.protocol.get("reference") or {}).get("foreign")
    return (
        not foreign
        and suite.get("dataset") == "coco2014"
        and suite.get("image_size", 256) == 256
        and {point.count for point in results.points} == {30_000}
        and extractor["name"] == INCEPTION[0]
        and extractor["layer"] == "2048"
        and all(digest.startswith(INCEPTION[1]) for digest in _hashes(extractor))
    )


def _features(extractor: str) -> str:
    return f"{'CLIP' if extractor == 'clip' else extractor} features"


def _extractor(results: Results) -> dict[str, str]:
    """The feature extractor's protocol, as texts; its name from the suite where the protocol has none."""
    known = {"name": results.suite.get("feature_extractor", "unknown"), "layer": "2048"}
    return {key: str(value) for key, value in {**known, **(results.protocol.get("feature_extractor") or {})}.items()}


def _hashes(extractor: Mapping[str, str]) -> list[str]:
    """The SHA-256 of its weights, where an extractor's protocol has it."""
    return [extractor["weights"]] if "weights" in extractor else []
