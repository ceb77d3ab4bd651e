"""Randomness is passed: one generator per image, so that an image does not depend on its batch.

The noise of image `index` of a run is a pure function of (seed, index): the same in any batch, at any batch size, in
any number of processes, on any device (it is drawn on the CPU and moved).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ediffi.registry.types import Generators

STATES = 2**32
STRIDE = 0x9E3779B1


def generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per image, a pure function of (seed, index).

    The torch seed is `(hash(seed) + STRIDE * index) mod 2^32` with numpy's `SeedSequence` as the hash. torch seeds its
    CPU generator (a Mersenne twister) from the low 32 bits of the number alone, so with any hash of the pair one run of
    30,000 images in ten would give two of them the same noise. Our choice: an odd STRIDE (2^32 over the golden ratio)
    makes index to torch seed one to one, so no two images of a run ever share their noise; two runs of n images with
    different seeds share some with probability n / 2^31.

    `seed` is at least 0, of any size; an index is the number of an image in the run, from 0 to 2^32 - 1.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be at least 0")
    offset = int(np.random.SeedSequence(seed).generate_state(1)[0])
    result = []
    for index in indices:
        if not 0 <= index < STATES:
            raise ValueError(f"indices holds {index}; an index must be between 0 and {STATES - 1}")
        result.append(torch.Generator().manual_seed((offset + STRIDE * int(index)) % STATES))
    return result


def randn(
    shape: Sequence[int], generator: Generators, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise of `shape`; with a list of generators, row k comes from generator k.

    Drawn on the generator's own device, then moved. Our choice: always drawn in float32 and then cast, because torch
    draws other numbers in other dtypes, and an image should not change with the precision it is sampled in.
    """
    if not isinstance(generator, list):
        origin = "cpu" if generator is None else generator.device
        return torch.randn(*shape, generator=generator, device=origin).to(device, dtype)
    rows = shape[0] if shape else 0
    if len(generator) != rows:
        raise ValueError(f"generator is a list of {len(generator)}; shape {tuple(shape)} needs one per row: {rows}")
    noise = torch.empty(*shape, device=device, dtype=dtype)
    for row, one in zip(noise, generator, strict=True):
        row.copy_(torch.randn(*shape[1:], generator=one, device=one.device))
    return noise
