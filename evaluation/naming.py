"""Names of metrics and datasets for people, which way is better, and which numbers compare with the paper's."""

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
"""torch-fidelity's name of the Inception that defines FID, and how the SHA-256 of its weights begins."""

GUIDANCE = "guidance_scale w: uncond + w (cond - uncond), 1 = off"
"""The convention of guidance scales, if a protocol does not state its own."""

INFINITY = "_infinity"
"""End of the name of a Fréchet distance that is extrapolated to infinitely many images."""

_NAMES = {"fid": "FID", "kid_mean": "KID", "kid_std": "KID, std", "clip_score": "CLIP score", "cmmd": "CMMD"}
_NAMES |= {"vendi": "Vendi score"}
_SCORERS = {"hpsv2": "HPSv2", "lpips_diversity": "LPIPS diversity", "pickscore": "PickScore", "vqascore": "VQAScore"}
_DATASETS = {"coco2014": "COCO 2014 validation", "visual-genome": "Visual Genome", "emoji": "Emoji", "toybox": "Toybox"}


def is_distance(metric: str) -> bool:
    """Whether a metric is a Fréchet distance: "fid" in Inception's features, "frechet_clip" in others."""
    return metric.removesuffix(INFINITY) == "fid" or metric.startswith("frechet_")


def distance(several: Sequence[Results]) -> str:
    """The name of the Fréchet distance that evaluations have; "fid" if they have none."""
    names = [name for results in several for point in results.points for name in point.metrics if is_distance(name)]
    names = [name for name in names if not name.endswith(INFINITY)]
    return "fid" if "fid" in names or not names else names[0]


def less_is_better(metric: str) -> bool:
    """Whether a metric is a distance, or the standard deviation of one."""
    return is_distance(metric) or metric.startswith(("kid", "cmmd"))


def metric_name(metric: str) -> str:
    """A metric's name for people: "CLIP score"; of "oracle/shape" the last part, "Shape"."""
    if metric.endswith(INFINITY):
        return _of_infinitely_many(metric_name(metric.removesuffix(INFINITY)))
    people = {"clip": "CLIP", "efficientnet-lite0": "EfficientNet-Lite0", "dinov2": "DINOv2"}
    if metric.startswith("frechet_"):
        extractor = metric.removeprefix("frechet_")
        return f"Fréchet distance, {people.get(extractor, extractor)} features"
    if "@" in metric:
        metric, _, extractor = metric.partition("@")
        return f"{metric_name(metric)}, {people.get(extractor, extractor)} features"
    last = metric.rpartition("/")[2].replace("_", " ")
    return (_NAMES | _SCORERS).get(metric, last[:1].upper() + last[1:])


def shown(metric: str, value: float | None) -> str:
    """A value with the digits that people read: "7.35", "0.00123"; a dash for None."""
    if value is None:
        return "–"
    if metric.startswith(("kid", "hpsv2")):  # systems differ in the third place
        return f"{value:.5f}"
    return f"{value:.2f}" if metric in _NAMES else f"{value:.3f}"


def shortened(name: str, length: int = 44) -> str:
    """A name on one line; the middle of a long one is left out."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length // 2) :]}"


def dataset_name(results: Results) -> str:
    """The dataset's name for people."""
    name = str(results.suite.get("dataset", results.suite.get("name", "")))
    if not is_published(results):
        about = results.protocol["dataset"]
        return f"{about['source']}, {about['pictures']} of them"
    if name == "own":  # the suite has its name
        own = str(results.suite.get("name", name))
        return own if "selection" in results.protocol else f"reference: {own}"  # of a pair without captions
    return _DATASETS.get(name, name)


def is_published(results: Results) -> bool:
    """Whether the dataset is the one of its name, and not somebody's own in COCO's layout."""
    coco, about = _DATASETS["coco2014"], results.protocol.get("dataset") or {}
    return results.suite.get("dataset") != "coco2014" or about.get("source", coco) == coco


def distance_name(results: Results) -> str:
    """The Fréchet distance's name: "FID" in Inception's features, "Fréchet distance, CLIP features" in others."""
    extractor = results.protocol.get("feature_extractor") or {}
    name = str(extractor.get("name", results.suite.get("feature_extractor", "unknown")))
    layer, weights = str(extractor.get("layer", "2048")), str(extractor.get("weights", INCEPTION[1]))
    if name != INCEPTION[0]:
        return metric_name(f"frechet_{name}")
    if layer != "2048":
        return f"Fréchet distance, Inception features, layer {layer}"
    return "FID" if weights.startswith(INCEPTION[1]) else f"FID, weights {weights[:8]}"


def measured_name(results: Results, metric: str) -> str:
    """A metric's name; of the evaluation's own Fréchet distance with its features."""
    if metric.removesuffix(INFINITY) != distance([results]):
        return metric_name(metric)
    name = distance_name(results)
    return _of_infinitely_many(name) if metric.endswith(INFINITY) else name


def _of_infinitely_many(name: str) -> str:
    """FID∞ is the field's name of the FID that is extrapolated to infinitely many images."""
    first, comma, rest = name.partition(",")
    return f"{first}∞{comma}{rest}"


def clip_name(results: Results) -> str:
    """The CLIP that scored, "ViT-g-14, laion2b_s12b_b42k"; empty if there is none."""
    return str((results.protocol.get("clip") or {}).get("name", ""))


def convention(results: Results) -> str:
    """What a guidance scale means, in words."""
    return str(results.protocol.get("guidance") or GUIDANCE)


def comparable_to_paper(results: Results) -> bool:
    """Whether the FID has the protocol of the paper's Table 1: 30,000 images of COCO 2014's captions, at 256², compared
    with all images of the set."""
    suite, counts = results.suite, {point.count for point in results.points}
    which = (results.protocol.get("reference") or {}).get("which")  # none of other people's statistics
    coco = suite.get("dataset") == "coco2014" and suite.get("image_size", 256) == 256 and counts == {30_000}
    return coco and is_published(results) and which == "all" and distance_name(results) == "FID"
