"""How varied images are, without a reference: the Vendi score and the Inception score."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ediffi.evaluation.metrics.intervals import Measure

ROWS = 4096
"""Rows in memory at a time."""


def vendi(features: Float[Tensor, "n d"]) -> Measure:
    """exp(-Σ λ ln λ) of the eigenvalues of the cosine similarities over n: the effective number of different images
    (Friedman and Dieng, arXiv 2210.02410). 1 if all are equal, n if all are orthogonal.

    The eigenvalues are those of the smaller of the [n, n] similarities and the [d, d] mean of the rows' products.
    """
    parts = [partial(_unit, part) for part in torch.as_tensor(features).split(ROWS)]
    density = sum(rows().T @ rows() for rows in parts) / len(features)
    values, vectors = np.linalg.eigh(density)
    kept = values > np.finfo(float).eps * len(values)
    values, vectors = values[kept], vectors[:, kept]
    entropy = float(-(values * np.log(values)).sum())
    moved = np.concatenate([-np.square(rows() @ vectors) @ np.log(values) for rows in parts]) - entropy
    return Measure(float(np.exp(entropy)), np.exp(entropy) * (moved - moved.mean()), least=1)


def _unit(rows: Tensor) -> np.ndarray:
    """Rows of length 1, in float64."""
    return functional.normalize(rows.double(), dim=1).numpy()


def inception_score(features: Float[Tensor, "n d"], head: Float[Tensor, "c d"]) -> Measure:
    """exp(E KL(p(class | image) | p(class))) over all images (Salimans et al., arXiv 1606.03498), by the classifier
    `head` of the features, without its bias, as torch-fidelity computes it. Our choice: one split, so that it has an
    interval; the mean over ten splits, which is common, is a little lower."""
    logits = torch.cat([rows.double() @ head.double().T for rows in torch.as_tensor(features).split(ROWS)])
    log, p = logits.log_softmax(1), logits.softmax(1)
    marginal = p.mean(0)
    divergence = (p * (log - marginal.log())).sum(1).numpy()
    value = float(np.exp(divergence.mean()))
    return Measure(value, value * (divergence - divergence.mean()), least=1)
