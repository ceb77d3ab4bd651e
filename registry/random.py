"""Random numbers as a counter: what a sample gets is a pure function of where it is used, drawn for a whole batch.

`Philox(seed, indices)` gives row k the numbers of (seed, indices[k]): the same in any batch, at any batch size, in any
number of processes. Its integers, and `rand`, are the same on every device and in every version of torch. `randn` is,
up to the logarithm and the cosine of the device: within 1e-6, relative to the largest number; on one device, a row is
the same bit for bit in any batch.

Philox 4x32-10 is the generator of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import count

import torch
from jaxtyping import Float, Int
from torch import Tensor

MASK = 2**32 - 1
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # 2^32 over the golden ratio, and (sqrt(3) - 1)·2^32: what a key grows by each round
ROUNDS = 10
CACHED = 2**17  # blocks at a time on a CPU: their words stay in its cache

Words = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four int64 tensors of 32-bit words, of shapes that broadcast together."""


def philox_4x32(counter: Words, key: tuple[int, int] | tuple[Tensor, Tensor]) -> Words:
    """Philox 4x32-10: four random words of a counter of four words and a key of two (Salmon et al. 2011, section 3.3).

    Each round multiplies two words by constants, and swaps the high and the low halves of the products with the others.
    The products, of 64 bits, overflow int64 as if it were unsigned.
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        # The shift repeats the sign, and c1 and c3 still have the high half of a product: the mask takes both away.
        c0 = ((p1 >> 32) ^ c1).bitwise_xor_(k0).bitwise_and_(MASK)
        c2 = ((p0 >> 32) ^ c3).bitwise_xor_(k1).bitwise_and_(MASK)
        c1, c3 = p1, p0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1 & MASK, c2, c3 & MASK


@cache
def _compiled() -> Callable[..., Words]:
    # One graph for all shapes and keys, as long as the keys are tensors.
    return torch.compile(philox_4x32, dynamic=True)


@dataclass(frozen=True)
class Philox:
    """The random numbers of a batch: row k is a pure function of (seed, stream, indices[k], call).

    It has no state: the same call number gives the same numbers again. Numbers for another purpose come from another
    stream, `of("dropout")`; further ones of the same purpose from the calls 1, 2, ...

    The key is a hash of seed and stream. The counter is the number of the block of four words, the call, and the index.

    Args:
        seed: at least 0, of any size; a tuple has one for each row.
        indices: the index of each row: of an image in its run, or of a sample in the training data; 0 to 2^63 - 1.
        stream: the purpose.
        compile: draw through `torch.compile`: the same integers, in one kernel instead of a hundred.

    Raises:
        ValueError: a seed or an index is out of range, or the seeds are not one for each row.
    """

    seed: int | tuple[int, ...]
    indices: Sequence[int]
    stream: str = ""
    compile: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.seed, tuple) and len(self.seed) != len(self.indices):
            raise ValueError(f"seed has {len(self.seed)} values for {len(self.indices)} images; give one for each")
        if min(self._seeds, default=0) < 0:
            raise ValueError(f"seed is {min(self._seeds)}; it must be at least 0")
        for index in (min(self.indices, default=0), max(self.indices, default=0)):
            if not 0 <= index < 2**63:
                raise ValueError(f"indices holds {index}; an index must be between 0 and 2^63 - 1")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> "Philox":
        """Some rows."""
        seed = self.seed[rows] if isinstance(self.seed, tuple) else self.seed
        return replace(self, seed=seed, indices=self.indices[rows])

    def of(self, stream: str) -> "Philox":
        """The same rows for another purpose: a stream below this one."""
        return replace(self, stream=f"{self.stream}/{stream}")

    @property
    def _seeds(self) -> tuple[int, ...]:
        return self.seed if isinstance(self.seed, tuple) else (self.seed,)

    @cached_property
    def keys(self) -> list[tuple[int, int]]:
        """Two words of each seed and the stream."""
        digests = [hashlib.sha256(f"{seed}/{self.stream}".encode()).digest() for seed in self._seeds]
        return [(int.from_bytes(d[:4], "little"), int.from_bytes(d[4:8], "little")) for d in digests]

    def _key(self, like: Tensor, as_tensors: bool) -> tuple[int, int] | tuple[Tensor, Tensor]:
        if isinstance(self.seed, int) and not as_tensors:
            return self.keys[0]
        first, second = like.new_tensor(self.keys)[:, :, None].unbind(1)
        return first, second

    def blocks(self, first: int, last: int, call: int = 0, device: torch.device | str = "cpu") -> Words:
        """The blocks from `first` up to `last` of a call, as four words [b, last - first] each."""
        if isinstance(self.indices, range):  # counted on the device; a list would have to be sent to it
            steps = self.indices
            index = torch.arange(steps.start, steps.stop, steps.step, device=device)[:, None]
        else:
            index = torch.tensor(self.indices, dtype=torch.int64, device=device)[:, None]
        block = torch.arange(first, last, device=device)[None]
        counter = block, block.new_full((1, 1), call), index & MASK, index >> 32
        if self.compile and last - first > 1:  # one block a row is not worth it
            return _compiled()(counter, self._key(block, as_tensors=True))
        return philox_4x32(counter, self._key(block, as_tensors=False))

    def integers(self, count: int, call: int = 0, device: torch.device | str = "cpu") -> Int[Tensor, "b {count}"]:
        """`count` integers a row, uniform in [0, 2^32)."""
        return torch.stack(self.blocks(0, -(-count // 4), call, device), 1).flatten(1)[:, :count]


Generators = torch.Generator | Philox | None
"""Where random numbers come from: an index for each row, so that a row does not depend on its batch; torch's generator
for the whole tensor; or None for torch's global one."""


def rand(
    shape: Sequence[int],
    generator: Generators,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    call: int = 0,
) -> Tensor:
    """Uniform in [0, 1), in float32 (24 random bits) or float64 (53); `call` as in `randn`."""
    if not isinstance(generator, Philox):
        origin = "cpu" if generator is None else generator.device
        return torch.rand(*shape, generator=generator, device=origin, dtype=dtype).to(device)
    size = _row_size(shape, generator)
    if dtype == torch.float64:
        high, low = generator.integers(2 * size, call, device).unflatten(1, (2, size)).unbind(1)
        return ((high >> 5) * 2**26 + (low >> 6)).double().mul_(2**-53).view(*shape)
    return (generator.integers(size, call, device) >> 8).float().mul_(2**-24).view(*shape)


def randn(
    shape: Sequence[int],
    generator: Generators,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    call: int = 0,
) -> Tensor:
    """Standard normal noise of `shape`; a `Philox` gives row k the noise of its index k, and of the call number.

    Torch's generators ignore `call`: they have a state. They draw on their own device. Our choice: always drawn in
    float32 and then cast, because an image should not change with the precision it is sampled in.
    """
    if not isinstance(generator, Philox):
        origin = "cpu" if generator is None else generator.device
        return torch.randn(*shape, generator=generator, device=origin).to(device, dtype)
    size = _row_size(shape, generator)
    blocks = -(-size // 4)
    step = max(1, CACHED // max(1, len(generator)) if torch.device(device).type == "cpu" else blocks)
    parts = [
        _box_muller(generator.blocks(first, min(blocks, first + step), call, device))
        for first in range(0, blocks, step)
    ]
    noise = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return noise.flatten(1)[:, :size].reshape(*shape).to(dtype)


def noise_like(generator: Generators) -> Callable[[Tensor], Tensor]:
    """A function that draws noise of the shape, device and dtype of a tensor, at every call other noise."""
    calls = count()
    return lambda x: randn(x.shape, generator, x.device, x.dtype, next(calls))


def _box_muller(words: Words) -> Float[Tensor, "b 4 blocks"]:
    """`sqrt(-2 ln u)·(cos 2πv, sin 2πv)` of two uniform numbers is two normal ones (Box and Muller 1958)."""
    u, v = torch.stack(words[::2], 1).float(), torch.stack(words[1::2], 1).float()
    radius = u.add_(1).mul_(2**-32).log_().mul_(-2).sqrt_()  # u in (0, 1]
    angle = v.mul_(2 * math.pi * 2**-32)
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], 1)


def _row_size(shape: Sequence[int], generator: Philox) -> int:
    rows = shape[0] if shape else 0
    if len(generator) != rows:
        raise ValueError(f"generator has {len(generator)} rows; shape {tuple(shape)} needs one per row: {rows}")
    return math.prod(shape[1:])
