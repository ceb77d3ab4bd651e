"""What each number is, in a sentence with its source: pages show it beside the protocol, and docs/evaluating.md."""

from collections.abc import Mapping

from ediffi.evaluation.naming import INFINITY, is_distance

MEANINGS: Mapping[str, str] = {
    "fid": (
        "Distance of two Gaussians, fitted to the features of generated and of reference images: |m1 - m2|² + "
        "tr(C1 + C2 - 2 (C1 C2)^½). In Inception's features it is FID (Heusel et al., arXiv 1706.08500); "
        "distances in other features do not compare with it. Few images make it larger."
    ),
    "fid_infinity": (
        "The distance of infinitely many images: a line through the distances of all, half and a quarter of "
        "the images over 1/n, at 0 (Chong and Forsyth, arXiv 1911.07023)."
    ),
    "kid_mean": (
        "Squared maximum mean discrepancy of the features with the kernel (x·y/d + 1)³: the mean over 100 "
        "random subsets of 1,000 images, or of all if there are fewer (Bińkowski et al., arXiv 1801.01401). "
        "Not times 1,000."
    ),
    "kid_std": "Standard deviation of KID over its subsets, beside it as ± where it has no interval.",
    "cmmd": (
        "1,000 times the squared maximum mean discrepancy of a CLIP's embeddings with a Gaussian kernel, σ = "
        "10 (Jayasumana et al., arXiv 2401.09603). Of CLIP ViT-L/14 at 336 pixels it is the paper's CMMD."
    ),
    "precision": (
        "Share of generated images that are nearer to a reference image than that one's third neighbour "
        "(Kynkäänniemi et al., arXiv 1904.06991)."
    ),
    "recall": (
        "Share of reference images that are nearer to a generated image than that one's third neighbour "
        "(Kynkäänniemi et al.)."
    ),
    "f_score": "Harmonic mean of precision and recall.",
    "density": (
        "Mean number of reference images to which a generated image is nearer than their fifth neighbours "
        "are, over 5 (Naeem et al., arXiv 2002.09797). It may be above 1."
    ),
    "coverage": (
        "Share of reference images to which a generated image is nearer than their fifth neighbours are (Naeem et al.)."
    ),
    "authenticity": (
        "Share of generated images that are further from their nearest reference image than that one is from "
        "its own nearest (Alaa et al., arXiv 2102.08921). Copies make it smaller."
    ),
    "vendi": (
        "Effective number of different images, from 1 to their number: the exponential of the entropy of the "
        "eigenvalues of the features' cosine similarities over n (Friedman and Dieng, arXiv 2210.02410)."
    ),
    "inception_score": (
        "The exponential of the mean KL divergence of a classifier's answer for an image from its mean answer, over "
        "all images at once (Salimans et al., arXiv 1606.03498)."
    ),
    "clip_score": (
        "100 times the mean cosine of the embeddings of image and caption, by the CLIP of the protocol "
        "(Hessel et al., arXiv 2104.08718, with 100 instead of 2.5; negative values stay)."
    ),
    "pickscore": (
        "Mean of exp(logit scale) times the cosine of image and caption, by a CLIP that was trained on which "
        "images people chose (Kirstain et al., arXiv 2305.01569)."
    ),
    "hpsv2": (
        "Mean cosine of image and caption, by a CLIP that was trained on people's preferences (Wu et al., "
        "arXiv 2306.09341)."
    ),
    "vqascore": (
        "Mean probability that a model, asked whether the image shows the caption, answers Yes (Lin et al., "
        "arXiv 2404.01291)."
    ),
    "lpips_diversity": (
        "Mean LPIPS (Zhang et al., arXiv 1801.03924) of two images: of one caption where every caption has "
        "several, otherwise of any two. More is more varied."
    ),
}
DATASETS: Mapping[str, str] = {
    "oracle": (
        "Share of images of which a program that knows the dataset reads what the caption says, of the images "
        "whose captions say it; everything: all that the caption says."
    ),
    "": "Mean of what the dataset measures of an image, over the images that it applies to.",
}
"""Of a dataset's own measures, by the part of their name before the slash."""


def meaning(metric: str) -> str:
    """The sentence of a metric: of "vendi@clip" that of "vendi", of "frechet_clip" that of "fid"."""
    plain = metric.partition("@")[0]
    if is_distance(plain):
        plain = "fid_infinity" if plain.endswith(INFINITY) else "fid"
    kind, slash, _ = plain.partition("/")
    if slash:
        return DATASETS.get(kind, DATASETS[""])
    scorer = f"Mean of what the scorer {plain} says of the images; the protocol says where it comes from."
    return MEANINGS.get(plain, scorer)
