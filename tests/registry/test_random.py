"""Random numbers as a counter: the published generator, in any batch the same, and as random as it has to be."""

import math
import subprocess
import sys

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ediffi.registry.random import CACHED, Philox, noise_like, philox_4x32, rand, randn

SHAPE = (3, 5, 7)  # 35 numbers a row: not a multiple of a block

VECTORS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)
"""Counter, key and random words, of Random123's `kat_vectors` (philox4x32 10)."""


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_published_vectors(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in words(counter))
    k0, k1 = words(key)
    assert [int(word) for word in philox_4x32((c0, c1, c2, c3), (k0, k1))] == words(expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_agrees_with_whole_numbers(values: list[int]) -> None:
    """The same rounds in Python's integers, which do not overflow."""
    *counter, k0, k1 = values
    c0, c1, c2, c3 = counter
    for number in range(10):
        (h0, l0), (h1, l1) = divmod(0xD2511F53 * c0, 2**32), divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = (
            h1 ^ c1 ^ (k0 + number * 0x9E3779B9) % 2**32,
            l1,
            h0 ^ c3 ^ (k1 + number * 0xBB67AE85) % 2**32,
            l0,
        )
    t0, t1, t2, t3 = (torch.tensor([word]) for word in counter)
    assert [int(word) for word in philox_4x32((t0, t1, t2, t3), (k0, k1))] == [c0, c1, c2, c3]


def test_counter_is_block_call_and_index() -> None:
    index, call, rows = 5 * 2**32 + 9, 3, Philox(7, [4, 5 * 2**32 + 9])
    drawn = rows.integers(7, call)
    assert drawn.shape == (2, 7)
    for block in (0, 1):
        counter = tuple(torch.tensor([word]) for word in (block, call, index % 2**32, index >> 32))
        expected = [int(word) for word in philox_4x32(counter, rows.keys[0])]  # type: ignore[arg-type]
        assert drawn[1, block::2].tolist() == expected[: 4 - block], "word by word, the blocks of each"


@pytest.mark.parametrize("draw", [rand, randn])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_is_the_same_in_any_batch(draw: type[rand], dtype: torch.dtype) -> None:
    together = draw((8, *SHAPE), Philox(7, range(10, 18)), dtype=dtype, call=2)
    assert together.dtype == dtype
    for row, index in zip(together, range(10, 18), strict=True):
        assert torch.equal(row, draw((1, *SHAPE), Philox(7, [index]), dtype=dtype, call=2)[0])
    backwards = draw((8, *SHAPE), Philox(7, range(17, 9, -1)), dtype=dtype, call=2)
    assert torch.equal(backwards, together.flip(0))
    assert torch.equal(draw((3, *SHAPE), Philox(7, range(10, 18))[2:5], dtype=dtype, call=2), together[2:5])


def test_large_noise_is_drawn_in_parts() -> None:
    """A CPU draws it in parts that fit its cache; other devices, at once."""
    shape = (3, 4 * CACHED // 3 + 9)
    together = randn(shape, Philox(0, range(3)))
    alone = torch.cat([randn((1, shape[1]), Philox(0, [k])) for k in range(3)])
    assert torch.equal(together, alone)


def test_each_of_seed_index_stream_and_call_gives_other_numbers() -> None:
    rows = Philox(0, [0, 1, 2**32, 2**62])
    places = [
        rows,
        Philox(1, rows.indices),
        Philox(2**64, rows.indices),
        rows.of("a"),
        rows.of("b"),
        rows.of("a").of("b"),
    ]
    drawn = [one.integers(64, call) for one in places for call in (0, 1, 2**31)]
    drawn = [row for batch in drawn for row in batch]
    assert len({tuple(row.tolist()) for row in drawn}) == len(drawn) == 72
    noise = torch.stack(
        [randn((1, 4096), Philox(s, [k]), call=c)[0] for s in (0, 1) for k in (0, 1, 2**40) for c in (0, 1)]
    )
    assert (torch.corrcoef(noise) - torch.eye(len(noise))).abs().max() < 5 / 4096**0.5


def test_no_state() -> None:
    rows, noise = Philox(3, range(2)), noise_like(Philox(3, range(2)))
    like = torch.empty(2, 9, dtype=torch.float64)
    assert torch.equal(randn((2, 9), rows), randn((2, 9), rows))
    for call in range(3):
        assert torch.equal(noise(like), randn((2, 9), rows, dtype=torch.float64, call=call))


def test_distribution() -> None:
    """A fixed seed: the bounds are those of a sample of this size, 4 to 5 standard errors."""
    count = 2**20
    bits = Philox(1, range(64)).integers(count // 64)
    assert bits.min() >= 0
    assert bits.max() < 2**32
    ones = torch.stack([(bits >> k & 1).double().mean() for k in range(32)])
    assert (ones - 0.5).abs().max() < 5 * 0.5 / count**0.5, "each of the 32 bits"
    for name, drawn in (
        ("uniform", rand((64, count // 64), Philox(2, range(64)))),
        ("uniform", rand((64, count // 64), Philox(2, range(64)), dtype=torch.float64)),
        ("norm", randn((64, count // 64), Philox(2, range(64)))),
    ):
        assert scipy.stats.kstest(drawn.flatten().numpy(), name).pvalue > 1e-3
    noise = randn((64, count // 64), Philox(2, range(64))).double()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(noise.pow(power).mean() - expected) < 5 * math.sqrt(variance / count), f"moment {power}"
    assert 4.5 < noise.abs().max() < 6.5, "the tails"


def test_numbers_side_by_side_are_independent() -> None:
    """Words of a block, the two of Box and Muller, neighbours in a row, in index and in call."""
    calls = torch.stack([randn((32, 64, 64), Philox(4, range(32)), call=call) for call in range(4)]).double()
    for dim in range(4):
        for lag in (1, calls.shape[dim] // 2, calls.shape[dim] // 4):
            pair = calls.narrow(dim, lag, calls.shape[dim] - lag), calls.narrow(dim, 0, calls.shape[dim] - lag)
            for power in (1, 2):  # also the squares: the radius is shared by two numbers, which are independent still
                one, two = (part.pow(power).flatten() for part in pair)
                assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 5 / len(one) ** 0.5, (dim, lag, power)


def test_float64_is_uniform_below_the_resolution_of_float32() -> None:
    drawn = rand((1, 2**16), Philox(0, [0]), dtype=torch.float64)
    assert drawn.unique().numel() == 2**16
    fine = drawn * 2**27 % 1
    assert scipy.stats.kstest(fine.flatten().numpy(), "uniform").pvalue > 1e-3


def test_generators_of_torch_draw_the_whole_tensor() -> None:
    assert torch.equal(
        randn((2, 3), torch.Generator().manual_seed(5), call=1),
        torch.randn(2, 3, generator=torch.Generator().manual_seed(5)),
    )
    assert torch.equal(
        rand((2, 3), torch.Generator().manual_seed(5)), torch.rand(2, 3, generator=torch.Generator().manual_seed(5))
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noise = randn((2, 3), None)
    assert torch.equal(noise, torch.randn(2, 3, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("philox", [True, False])
def test_precision_does_not_change_the_noise(dtype: torch.dtype, philox: bool) -> None:
    single, cast = (Philox(1, [0, 1]) if philox else torch.Generator().manual_seed(1) for _ in range(2))
    noise = randn((2, 9), cast, dtype=dtype)
    assert noise.dtype == dtype
    assert torch.equal(noise, randn((2, 9), single).to(dtype))


def test_device() -> None:
    assert randn((2, 3), Philox(0, [0, 1]), device="meta").device.type == "meta"
    assert rand((2, 3), torch.Generator(), device="meta").device.type == "meta"


@pytest.mark.gpu
def test_a_gpu_draws_the_same() -> None:
    rows = Philox(5, range(8))
    assert torch.equal(rows.integers(1000, device="cuda").cpu(), rows.integers(1000))
    assert torch.equal(rand((8, 999), rows, "cuda", torch.float64).cpu(), rand((8, 999), rows, dtype=torch.float64))
    torch.testing.assert_close(randn((8, 99_999), rows, "cuda").cpu(), randn((8, 99_999), rows), atol=4e-6, rtol=0)


COMPILED = """
from dataclasses import replace
import torch
from ediffi.registry.random import Philox
for seed, size, rows in ((0, 500, range(2**32 - 5, 2**32 + 20)), (7, 3 * 64**2, range(4)), (2**40, 9, range(3))):
    plain = Philox(seed, rows, "a")
    for call in (0, 3):
        assert torch.equal(replace(plain, compile=True).integers(size, call), plain.integers(size, call))
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
"""


@pytest.mark.slow
def test_one_graph_for_all_seeds_shapes_and_calls_draws_the_same_bits() -> None:
    """In a process of its own, without the type checks of the tests, which would be compiled too."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


@pytest.mark.parametrize(("shape", "count"), [((3, 2), 2), ((1, 2), 2), ((), 1)])
def test_the_wrong_number_of_rows_is_refused(shape: tuple[int, ...], count: int) -> None:
    for draw in (rand, randn):
        with pytest.raises(ValueError, match=f"generator has {count} rows; shape"):
            draw(shape, Philox(0, range(count)))


@pytest.mark.parametrize(
    ("seed", "index", "argument"), [(-1, 0, "seed is -1"), (0, -1, "holds -1"), (0, 2**63, "holds")]
)
def test_out_of_range(seed: int, index: int, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        Philox(seed, [index])
