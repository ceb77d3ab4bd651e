"""Per-image randomness: a pure function of (seed, index), and no two images of a run alike."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ediffi.registry.random import STATES, generators, randn


def test_the_same_pair_gives_the_same_noise_in_any_batch() -> None:
    together = randn((3, 2, 5), generators(7, [10, 11, 12]))
    for row, index in zip(together, [10, 11, 12], strict=True):
        assert torch.equal(row, randn((1, 2, 5), generators(7, [index]))[0])


def test_no_two_images_of_a_run_share_their_generator() -> None:
    """torch seeds from 32 bits: a hash of the pair would be expected to collide five times among these 200,000."""
    seeds = [g.initial_seed() for k in range(20) for g in generators(3, range(k * 10_000, (k + 1) * 10_000))]
    assert len(set(seeds)) == len(seeds) == 200_000
    assert max(seeds) < STATES, "torch drops what is above 32 bits"


def test_torch_still_seeds_from_32_bits() -> None:
    """The reason for the arithmetic in `generators`; when this fails, it can become a plain hash."""
    low, high = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1 + STATES)
    assert torch.equal(torch.randn(4, generator=low), torch.randn(4, generator=high))


def test_neighbours_in_seed_and_index_are_unrelated() -> None:
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2**32, 0), (0, STATES - 1), (2**40, 1)]
    noise = torch.stack([randn((1, 4096), generators(seed, [index]))[0] for seed, index in pairs])
    correlation = torch.corrcoef(noise) - torch.eye(len(pairs))
    assert correlation.abs().max() < 5 / 4096**0.5


@settings(deadline=None, max_examples=50)
@example(0, 0, 2**31)  # where any even stride comes around
@given(st.integers(0, 2**70), st.integers(0, STATES - 1), st.integers(0, STATES - 1))
def test_index_to_torch_seed_is_one_to_one(seed: int, i: int, j: int) -> None:
    one, other = generators(seed, [i, j])
    assert (one.initial_seed() == other.initial_seed()) == (i == j)


def test_one_generator_draws_the_whole_tensor() -> None:
    noise = randn((2, 3), torch.Generator().manual_seed(5))
    assert torch.equal(noise, torch.randn(2, 3, generator=torch.Generator().manual_seed(5)))


def test_no_generator_is_the_global_one() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noise = randn((2, 3), None)
    assert torch.equal(noise, torch.randn(2, 3, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_does_not_change_the_noise(dtype: torch.dtype) -> None:
    for listed in (True, False):
        single, cast = (generators(1, [0, 1]) if listed else generators(1, [0])[0] for _ in range(2))
        noise = randn((2, 9), cast, dtype=dtype)
        assert noise.dtype == dtype
        assert torch.equal(noise, randn((2, 9), single).to(dtype))


def test_device() -> None:
    assert randn((2, 3), generators(0, [0, 1]), device="meta").device.type == "meta"


@pytest.mark.parametrize(("shape", "count"), [((3, 2), 2), ((1, 2), 2), ((), 1)])
def test_a_list_of_the_wrong_length_is_refused(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(ValueError, match=f"generator is a list of {count}; shape"):
        randn(shape, generators(0, range(count)))


@pytest.mark.parametrize(
    ("seed", "index", "argument"), [(-1, 0, "seed is -1"), (0, -1, "holds -1"), (0, STATES, "holds")]
)
def test_out_of_range(seed: int, index: int, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        generators(seed, [index])
