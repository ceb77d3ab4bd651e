"""KID (Bińkowski et al., arXiv 1801.01401), computed by torch-fidelity."""

import math

from jaxtyping import Float
from torch import Tensor

SUBSET = 1000
SEED = 2020


def kid(generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], subset: int = SUBSET) -> dict[str, float]:
    """Squared maximum mean discrepancy with a cubic kernel, over 100 random subsets: "kid_mean" and "kid_std".

    Unlike FID it is not biased by the number of images. With fewer images than `subset`, each subset is all of them,
    and the spread over subsets is meaningless: it is nan. Subsets are drawn by torch-fidelity with its default seed.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(subset, len(generated), len(real))
    if size < 2:
        raise ValueError(f"KID needs at least 2 images in each set, got {len(generated)} and {len(real)}")
    found = kid_features_to_metric(generated, real, kid_subset_size=size, rng_seed=SEED, verbose=False)
    spread = found[KEY_METRIC_KID_STD] if size < max(len(generated), len(real)) else math.nan
    return {"kid_mean": found[KEY_METRIC_KID_MEAN], "kid_std": spread}
