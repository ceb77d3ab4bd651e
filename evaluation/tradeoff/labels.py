"""Positions of texts on a figure, so that they cover little."""

from collections.abc import Sequence
from itertools import pairwise
from math import cos, radians, sin

import numpy as np

ANGLES = (60, 120, 300, 240, 90, 270, 0, 180)
"""Where a label may be around its point, in degrees; of equally good ones the first is used."""


def dodge(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart to be at least `gap` from each other, in their order, close to where they were.

    Neighbours that touch form a block, which is placed at the mean of its members' positions.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    blocks: list[list[int]] = []

    def lowest(block: list[int]) -> float:
        return sum(heights[index] - gap * rank for rank, index in enumerate(block)) / len(block)

    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and lowest(blocks[-2]) + gap * len(blocks[-2]) > lowest(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = list(heights)
    for block in blocks:
        for rank, index in enumerate(block):
            moved[index] = lowest(block) + gap * rank
    return moved


def place(
    texts: Sequence[tuple[float, float, str]], lines: Sequence[Sequence[tuple[float, float]]], size: float
) -> list[tuple[float, float]]:
    """Offsets of texts' centres from their points (x, y, text): each covers least of the lines and of earlier texts.

    All in pixels; `size` is of the letters.
    """
    crowd = [np.linspace(a, b, 48) for line in lines for a, b in pairwise(line)]
    crowd += [np.repeat([[x, y]], 12, axis=0) for x, y, _ in texts]
    filled = np.concatenate(crowd) if crowd else np.zeros((0, 2))
    offsets = []
    for x, y, text in texts:
        half = np.array([0.31 * len(text) * size + 1, 0.45 * size + 1])
        reach = half + 0.55 * size
        around = [np.array([reach[0] * cos(radians(a)), reach[1] * sin(radians(a))]) for a in ANGLES]
        options = [distance * option for distance in (1, 1.35) for option in around]
        covered = [int((abs(filled - (np.array([x, y]) + option)) <= half).all(1).sum()) for option in options]
        best = options[int(np.argmin(covered))]
        box = np.array([[x, y]]) + best + half * np.array([[i, j] for i in (-1, -0.5, 0, 0.5, 1) for j in (-1, 0, 1)])
        filled = np.concatenate([filled, np.repeat(box, 3, axis=0)])
        offsets.append((float(best[0]), float(best[1])))
    return offsets
