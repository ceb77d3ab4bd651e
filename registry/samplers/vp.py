"""The time of the linear variance-preserving schedule (Song et al., arXiv 2011.13456, appendix C), in EDM's sigma.

beta(t) = beta_min + (beta_max - beta_min) t on 0 <= t <= 1, so x_VP = x / sqrt(1 + sigma^2) with
sigma^2 = exp((beta_max - beta_min) t^2 / 2 + beta_min t) - 1 (EDM, table 1, "VP"). Here it is only a clock: what a
grid is uniform in, and what a solver's polynomial is in. t = 1 is sigma = 152; larger levels go on past 1.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BETA_MIN, BETA_MAX = 0.1, 20.0
"""Of Song et al."""

SLOPE = BETA_MAX - BETA_MIN


def time_of(sigma: Array) -> Array:
    """t = (sqrt(beta_min^2 + 2 (beta_max - beta_min) log(1 + sigma^2)) - beta_min) / (beta_max - beta_min).

    Computed as 2 l / (beta_min + sqrt(...)), l = log(1 + sigma^2), which loses no digits where sigma is small.

    Args:
        sigma: noise levels, at least 0.
    """
    log = np.log1p(np.square(sigma))
    return np.asarray(2 * log / (BETA_MIN + np.sqrt(BETA_MIN**2 + 2 * SLOPE * log)))


def sigma_of(time: Array) -> Array:
    """sigma = sqrt(exp((beta_max - beta_min) t^2 / 2 + beta_min t) - 1).

    Args:
        time: t, at least 0.
    """
    return np.asarray(np.sqrt(np.expm1(SLOPE * np.square(time) / 2 + BETA_MIN * time)))
