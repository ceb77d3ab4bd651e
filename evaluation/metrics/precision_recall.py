"""Precision and recall of images (Kynkäänniemi et al., arXiv 1904.06991), computed by torch-fidelity."""

from jaxtyping import Float
from torch import Tensor

NEIGHBOURHOOD = 3
ROWS = 1000
"""Rows whose distances to all others are in memory at a time."""


def precision_recall(generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> dict[str, float]:
    """The share of generated images near real ones, the reverse, and their harmonic mean.

    Near is within an image's distance to its third neighbour in its own set. Returns "precision", "recall" and
    "f_score", 0 to 1. ValueError: fewer than four rows, so that there is no third neighbour.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    if min(len(generated), len(real)) <= NEIGHBOURHOOD:
        got = f"got {len(generated)} and {len(real)}"
        raise ValueError(f"precision and recall need at least {NEIGHBOURHOOD + 1} images in each set, {got}")
    settings = {"prc_neighborhood": NEIGHBOURHOOD, "prc_batch_size": ROWS, "save_cpu_ram": True, "verbose": False}
    found = prc_features_to_metric(generated, real, **settings)
    return {name: float(found[name]) for name in ("precision", "recall", "f_score")}
