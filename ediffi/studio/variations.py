"""Variations of an image: the same noise, with a share of it replaced."""

import math

from jaxtyping import Float
from torch import Tensor

from ediffi.pipeline.stage import Stage
from ediffi.registry.random import Philox


def varied_noise(stage: Stage, seed: int, image: int, numbers: range, amount: float) -> Float[Tensor, "b 3 h w"]:
    """Standard normal noise for variations of an image of this seed, one for each number.

    `cos(a)·noise of the image + sin(a)·new noise` with `a = amount·π/2`, which is standard normal again: an amount of 0
    is the image's noise, 1 is all new. The later stages draw their own noise for each number, as always.
    """
    own = stage.start_noise(Philox(seed, [image] * len(numbers)))
    new = stage.start_noise(Philox(seed, numbers).of("variation"))
    angle = amount * math.pi / 2
    return math.cos(angle) * own + math.sin(angle) * new
