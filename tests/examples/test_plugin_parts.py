"""The plug-in's parts keep the contracts: the encoder its tokens, the denoiser its shapes, the sampler its SDE."""

import importlib
import math
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ediffi.diffusion.guidance import ClassifierFreeGuidance
from ediffi.diffusion.layout import Region
from ediffi.diffusion.paint import PaintWithWords, paint
from ediffi.pipeline.attention_maps import CrossAttention
from ediffi.registry import samplers
from ediffi.registry.random import Philox, randn
from ediffi.registry.samplers.schedules import karras
from ediffi.registry.types import Conditioning, Denoiser, Embedding, Sampler, TextEncoder
from tests.examples.shapes import PLUGIN

TEXTS = ["a red circle", "A red circle, left of two blue squares!", "", "ein großer Kreis"]


@pytest.fixture(scope="module")
def parts() -> Iterator[Any]:
    """The plug-in's functions, from its source: nothing is registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGIN)
        modules = [importlib.import_module(f"shapeworks.{name}") for name in ("encoder", "denoiser", "sampler")]
        yield SimpleNamespace(**{key: value for module in modules for key, value in vars(module).items()})


@pytest.fixture(scope="module")
def encoder(parts: Any) -> Any:
    return parts.ngram_text()


# The encoder


def test_a_text_is_the_same_in_any_batch(encoder: Any) -> None:
    batch = encoder(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = encoder([text])
        length = alone.tokens.shape[1]
        assert batch.mask[row].tolist() == [True] * length + [False] * (batch.tokens.shape[1] - length)
        assert torch.equal(batch.tokens[row, :length], alone.tokens[0])
        assert torch.equal(batch.pooled[row], alone.pooled[0])
        assert not batch.tokens[row, length:].any()


def test_it_is_a_text_encoder(encoder: Any) -> None:
    assert isinstance(encoder, TextEncoder)
    embedding = encoder(TEXTS)
    ids, mask = encoder.tokenize(TEXTS)
    assert ids.shape == mask.shape == embedding.tokens.shape[:2]
    assert torch.equal(mask, embedding.mask)
    assert (embedding.tokens.shape[2], embedding.pooled.shape[1]) == (encoder.width, encoder.pooled_width) == (128, 64)
    assert not next(iter(encoder.parameters())).requires_grad
    torch.testing.assert_close(embedding.pooled.square().mean(1), torch.ones(len(TEXTS)))


def test_the_seed_is_all_there_is_to_know(parts: Any, encoder: Any) -> None:
    again, other = parts.ngram_text(), parts.ngram_text(seed=1)
    assert torch.equal(again(TEXTS).tokens, encoder(TEXTS).tokens)
    assert not torch.equal(other(TEXTS).tokens, encoder(TEXTS).tokens)


def test_words_with_common_letters_are_near(encoder: Any) -> None:
    def vector(word: str) -> Tensor:
        return encoder([word]).tokens[0, 0, :64]

    near = torch.cosine_similarity(vector("square"), vector("squares"), dim=0)
    far = torch.cosine_similarity(vector("square"), vector("circle"), dim=0)
    assert near > 0.5
    assert abs(far) < 0.4
    assert torch.equal(vector("Square"), vector("square"))


def test_a_token_knows_the_word_before(encoder: Any) -> None:
    one, two = (encoder([text]).tokens[0] for text in ("red circle blue square", "blue circle red square"))
    assert torch.equal(one[1, :64], two[1, :64]), "the word itself"
    assert not torch.equal(one[1], two[1])
    assert torch.equal(one[1, 64:], one[0, :64])


@pytest.mark.parametrize(
    ("text", "phrase", "words"),
    [
        ("a red circle left of a blue square", "red circle", ["red", "circle"]),
        ("a red circle left of a blue square", "ed circ", ["red", "circle"]),
        ("Red, blue!", ", b", [",", "blue"]),
        ("ein großer Kreis", "großer", ["großer"]),
        ("a  red", " ", []),
    ],
)
def test_a_phrase_has_the_tokens_of_its_words(encoder: Any, text: str, phrase: str, words: list[str]) -> None:
    start = text.index(phrase)
    found = encoder.token_range(text, start, start + len(phrase))
    assert [encoder.token_strings(text)[position] for position in found] == words


def test_a_text_that_is_too_long_is_cut_and_says_so(parts: Any, encoder: Any) -> None:
    short = parts.ngram_text(max_tokens=4)
    text = "one two three four five"
    assert short.token_strings(text) == ["one", "two", "three", "</s>"]
    assert short.truncated_text(text) == "four five"
    assert short.token_range(text, 0, len(text)) == range(3)
    assert short.token_range(text, text.index("four"), len(text)) == range(0)
    assert encoder.truncated_text(text) == short.truncated_text("one two three") == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 7}, "width must be even and at least 2, got 7"),
        ({"width": 0}, "width must be even and at least 2, got 0"),
        ({"buckets": 0}, "buckets must be at least 1, got 0"),
        ({"max_tokens": 1}, "max_tokens must be at least 2"),
    ],
)
def test_sizes_that_make_no_encoder(parts: Any, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts.ngram_text(**arguments)


@pytest.mark.parametrize("texts", ["a red circle", []])
def test_texts_come_as_a_list(encoder: Any, texts: Any) -> None:
    with pytest.raises(ValueError, match="expected a list of at least one text"):
        encoder(texts)


# The denoiser


def tiny(parts: Any, **arguments: Any) -> Any:
    """A small network that is past its zero beginning."""
    denoiser = parts.dit(width=32, depth=2, head_channels=16, **arguments).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def noisy(size: int = 16, batch: int = 2) -> tuple[Tensor, Tensor]:
    sigma = torch.linspace(0.5, 2.0, batch)
    return randn((batch, 3, size, size), Philox(0, range(batch))), sigma


def said(encoder: Any, *texts: str) -> Conditioning:
    return Conditioning({"ngram_text": encoder(list(texts))})


def test_an_untrained_network_adds_nothing(parts: Any, encoder: Any) -> None:
    x, sigma = noisy()
    denoised = parts.dit(sigma_data=0.5)(x, sigma, said(encoder, "red", "blue"))
    c_skip = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(denoised, c_skip.view(-1, 1, 1, 1) * x)


@pytest.mark.parametrize(("size", "patch_size"), [(16, 2), (24, 2), (16, 4), (8, 1)])
def test_it_takes_pictures_of_any_size_one_by_one_or_in_a_batch(
    parts: Any, encoder: Any, size: int, patch_size: int
) -> None:
    denoiser, cond = tiny(parts, patch_size=patch_size), said(encoder, "a red circle", "blue")
    assert isinstance(denoiser, Denoiser)
    x, sigma = noisy(size)
    denoised = denoiser(x, sigma, cond)
    assert denoised.shape == x.shape
    for row in range(2):
        alone = denoiser(x[row : row + 1], sigma[row : row + 1], cond[row : row + 1])
        torch.testing.assert_close(alone[0], denoised[row], rtol=1e-4, atol=1e-5)


def test_it_reads_the_words_and_their_order(parts: Any, encoder: Any) -> None:
    denoiser = tiny(parts)
    x, sigma = noisy()
    texts = ("red circle blue square", "blue circle red square", "green circle blue square")
    denoised = [denoiser(x, sigma, said(encoder, text, text)) for text in texts]
    assert (denoised[0] - denoised[1]).abs().max() > 1e-4
    assert (denoised[0] - denoised[2]).abs().max() > 1e-4


def test_it_knows_where_a_patch_stands(parts: Any, encoder: Any) -> None:
    """Without positions, a picture moved by a patch would be denoised to the same, moved."""
    denoiser, cond = tiny(parts), said(encoder, "red", "blue")
    x, sigma = noisy()
    for side in (2, 3):
        moved = denoiser(x.roll(2, side), sigma, cond).roll(-2, side)
        assert (moved - denoiser(x, sigma, cond)).abs().max() > 1e-3


def test_padding_says_nothing(parts: Any, encoder: Any) -> None:
    denoiser = tiny(parts)
    x, sigma = noisy()
    plain, long = encoder(["red", "blue"]), encoder(["red", "blue", "a long caption of many words"])
    cut = Embedding(long.tokens[:2] + 5.0 * ~long.mask[:2, :, None], long.mask[:2], long.pooled[:2])
    one, two = (denoiser(x, sigma, Conditioning({"ngram_text": source})) for source in (plain, cut))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_dropped_caption_is_no_caption(parts: Any, encoder: Any) -> None:
    """So that guidance has something to move away from."""
    denoiser, cond = tiny(parts), said(encoder, "red", "blue")
    x, sigma = noisy()
    dropped = denoiser(x, sigma, cond.drop("ngram_text", torch.tensor([True, True])))
    torch.testing.assert_close(dropped, denoiser(x, sigma, Conditioning()), rtol=1e-4, atol=1e-5)
    guided = ClassifierFreeGuidance(denoiser, 3.0)(x, sigma, cond)
    torch.testing.assert_close(guided, dropped + 3 * (denoiser(x, sigma, cond) - dropped), rtol=1e-3, atol=1e-4)


def test_it_can_be_painted_and_watched(parts: Any, encoder: Any) -> None:
    """Paint raises the attention to its words inside its area, in each of the network's layers."""
    denoiser = tiny(parts)
    x, sigma = noisy(batch=1)
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1
    text = "a red circle"
    painted = paint({"ngram_text": encoder}, [text], [[Region("red circle", mask)]])
    words, seen = Conditioning(said(encoder, text).sources, paint=painted), []
    layers = [module for module in denoiser.modules() if isinstance(module, CrossAttention)]
    assert len(layers) == 2
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(layer.probabilities(*inputs)))
        for layer in layers
    ]
    PaintWithWords(denoiser, 0.0)(x, sigma, words)
    PaintWithWords(denoiser, 1.0)(x, sigma, words)
    for hook in hooks:
        hook.remove()
    plain, strong = seen[0], seen[2]  # of the first layer, whose input is the same
    phrase = (strong - plain)[..., 2:4].sum(-1).unflatten(-1, (8, 8))
    assert (phrase[..., :4] > 0).all()
    outside = phrase[..., 5:]  # the area's edge is soft, a patch wide
    torch.testing.assert_close(outside, torch.zeros_like(outside), rtol=0, atol=1e-6)


def test_every_weight_learns(parts: Any, encoder: Any) -> None:
    denoiser = tiny(parts).requires_grad_(True)
    x, sigma = noisy()
    denoiser(x, sigma, said(encoder, "red", "blue")).square().mean().backward()
    assert [name for name, parameter in denoiser.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("arguments", "size", "message"),
    [
        ({"width": 30, "head_channels": 16}, 16, r"width must be a multiple of head_channels \(16\) and of 4, got 30"),
        ({"sigma_data": 0.0}, 16, "sigma_data must be positive"),
        ({"patch_size": 3}, 16, "a picture of 16x16 has no patches of 3"),
    ],
)
def test_what_makes_no_network(parts: Any, encoder: Any, arguments: dict[str, Any], size: int, message: str) -> None:
    x, sigma = noisy(size)
    with pytest.raises(ValueError, match=message):
        parts.dit(**arguments)(x, sigma, said(encoder, "red", "blue"))


# The sampler

VARIANCE = 0.5**2
"""Of the pictures, each pixel normal and on its own."""


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of N(0, VARIANCE)."""
    return x * VARIANCE / (VARIANCE + sigma.view(-1, 1, 1, 1) ** 2)


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that is not linear in x."""
    return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))


@pytest.fixture(scope="module")
def k_sampling() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("k_diffusion.sampling")


def test_without_noise_it_is_the_ode_s_solver(parts: Any) -> None:
    sigmas, x = karras(12, 0.02, 80.0, dtype=torch.float64), 80 * randn((2, 3, 4, 4), None, dtype=torch.float64)
    sampler = parts.dpmpp_2m_sde(eta=0.0)
    assert isinstance(sampler, Sampler)
    torch.testing.assert_close(sampler(bent, x, sigmas), samplers.dpmpp_2m()(bent, x, sigmas), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [1.0, 0.3])
@pytest.mark.parametrize("rho", [3.0, 7.0])
def test_it_agrees_with_k_diffusion(parts: Any, k_sampling: ModuleType, eta: float, rho: float) -> None:
    sigmas, x = karras(12, 0.02, 80.0, rho, dtype=torch.float64), 80 * randn((2, 3, 4, 4), None, dtype=torch.float64)
    ours = parts.dpmpp_2m_sde(eta)(bent, x, sigmas, generator=torch.Generator().manual_seed(4))
    draws = torch.Generator().manual_seed(4)
    theirs = k_sampling.sample_dpmpp_2m_sde(
        bent, x, sigmas, eta=eta, disable=True, noise_sampler=lambda *_: randn(x.shape, draws, dtype=x.dtype)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_it_ends_at_the_pictures_own_variance(parts: Any, eta: float) -> None:
    """20,000 pixels: the standard error of the variance is 1 %."""
    x = 80 * randn((1, 2, 100, 100), torch.Generator().manual_seed(0), dtype=torch.float64)
    images = parts.dpmpp_2m_sde(eta)(
        gaussian, x, karras(60, 0.002, 80.0, dtype=torch.float64), generator=torch.Generator().manual_seed(1)
    )
    assert float(images.var()) == pytest.approx(VARIANCE, rel=0.05)


def test_a_picture_is_the_same_in_any_batch(parts: Any) -> None:
    sigmas, sampler = karras(6, 0.02, 80.0), parts.dpmpp_2m_sde()
    x = 80 * randn((3, 3, 4, 4), Philox(0, range(3)))
    together = sampler(bent, x, sigmas, generator=Philox(1, range(3)))
    alone = sampler(bent, x[1:2], sigmas, generator=Philox(1, range(1, 2)))
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together, sampler(bent, x, sigmas, generator=Philox(2, range(3))))


def test_it_says_what_it_costs(parts: Any) -> None:
    calls: list[float] = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma[0]))
        return gaussian(x, sigma)

    sigmas = karras(9, 0.02, 80.0)
    sampler = parts.dpmpp_2m_sde()
    sampler(counted, 80 * torch.ones(1, 3, 2, 2), sigmas, generator=torch.Generator())
    assert len(calls) == sampler.nfe(9) == 9
    assert calls == pytest.approx(sigmas[:-1].tolist())


@pytest.mark.parametrize("eta", [-0.1, math.inf, math.nan])
def test_an_eta_that_is_none(parts: Any, eta: float) -> None:
    with pytest.raises(ValueError, match="eta is"):
        parts.dpmpp_2m_sde(eta)
