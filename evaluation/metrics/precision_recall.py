"""Precision and recall of pictures (Kynkäänniemi et al., arXiv 1904.06991), as torch-fidelity computes them."""

from jaxtyping import Float
from torch import Tensor

NEIGHBOURHOOD = 3
ROWS = 1000
"""Rows whose distances to all others are held in memory at a time."""


def precision_recall(generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> dict[str, float]:
    """Share of the generated pictures that lie near real ones, the reverse, and their harmonic mean.

    Near is within the distance of a picture to its third neighbour of the same set. Returns "precision", "recall" and
    "f_score", 0 to 1.

    Raises:
        ValueError: fewer than four rows: no third neighbour.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    if min(len(generated), len(real)) <= NEIGHBOURHOOD:
        raise ValueError(
            f"precision and recall need at least {NEIGHBOURHOOD + 1} pictures on either side, "
            f"and there are {len(generated)} and {len(real)}"
        )
    settings = {"prc_neighborhood": NEIGHBOURHOOD, "prc_batch_size": ROWS, "save_cpu_ram": True, "verbose": False}
    found = prc_features_to_metric(generated, real, **settings)
    return {name: float(found[name]) for name in ("precision", "recall", "f_score")}
