"""Seeing inside: where a prompt's words are attended to, at which noise (eDiff-I, figure 3), and when they decide.

Everything here watches the networks a cascade samples with, through hooks; nothing of how it samples is changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions, Switch
from ediffi.registry.denoisers.attention import Context, CrossAttention
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.types import SamplerState, TextEncoder

NULL = "null"
"""The source of the learned null token."""


@dataclass(frozen=True)
class Token:
    """One key of the cross-attention: a token of a source, or the null token."""

    source: str
    text: str


@dataclass(frozen=True)
class Attention:
    """How one picture's pixels shared their attention out, while it was sampled.

    Attributes:
        image: the picture of the watched stage.
        tokens: the k keys, the null token first.
        sigmas: noise level of each of the s network calls.
        maps: [s, k, h, w] share of each pixel's attention, mean over heads and layers; sums to 1 over k.
    """

    image: Image.Image
    tokens: list[Token]
    sigmas: list[float]
    maps: Float[Tensor, "s k h w"]

    def shares(self) -> dict[str, Float[Tensor, " s"]]:
        """By source, what of all attention its tokens get at each noise level; figure 3 is text against null."""
        means = self.maps.mean((2, 3))
        sources = list(dict.fromkeys(token.source for token in self.tokens))
        return {
            source: means[:, [k for k, token in enumerate(self.tokens) if token.source == source]].sum(1)
            for source in sources
        }

    def of(self, word: str) -> Float[Tensor, "s h w"]:
        """The map of a word: the sum over all tokens that read so, of every source.

        Raises:
            ValueError: no token reads so.
        """
        chosen = [k for k, token in enumerate(self.tokens) if token.text.casefold() == word.casefold()]
        if not chosen:
            raise ValueError(f"no token reads {word!r}; there are {', '.join(self.words())}")
        return self.maps[:, chosen].sum(1)

    def words(self) -> list[str]:
        """What the tokens read, in order and without repeats, the null token first."""
        return list(dict.fromkeys(token.text for token in self.tokens))


def attention_maps(
    cascade: Cascade,
    prompt: str,
    options: SamplingOptions = SamplingOptions(),  # noqa: B008  (frozen)
    stage: str | None = None,
    progress: Callable[[str, SamplerState], None] | None = None,
) -> Attention:
    """Sample one picture and watch the cross-attention of a stage, the conditional half only.

    Args:
        cascade: the model.
        prompt: what to sample.
        options: of the image.
        stage: the stage to watch; the base stage by default.
        progress: called after every step, as in `Cascade.__call__`.

    Raises:
        ValueError: there is no such stage, or it has no cross-attention.
    """
    watched = cascade.up_to(stage or cascade.stages[0].name)
    denoiser = watched.stages[-1].denoiser
    with _watch(denoiser) as calls:
        images = watched.generate(prompt, options, progress)
    sigmas = [sigma for sigma, layers in calls if layers]
    if not sigmas:
        raise ValueError(f"stage {watched.stages[-1].name!r} has no cross-attention to watch")
    size = max((layer.shape[-2:] for _, layers in calls for layer in layers), key=lambda s: s[0])
    maps = torch.stack([_mean(layers, (size[0], size[1])) for _, layers in calls if layers])
    return Attention(images.images[0], _tokens(watched, prompt, denoiser), sigmas, maps)


def switched(
    cascade: Cascade,
    prompt: str,
    switch_prompt: str,
    fractions: Sequence[float],
    seed: int = 0,
    progress: Callable[[str, SamplerState], None] | None = None,
) -> list[Image.Image]:
    """The picture for each share of the base stage's steps that the second prompt gets, from the last steps on.

    eDiff-I, figure 4: up to about the last 7 % change nothing, all but the first 40 % change everything.

    Args:
        cascade: the model.
        prompt: reads the noisy steps.
        switch_prompt: takes over.
        fractions: shares in [0, 1] that the second prompt gets.
        seed: of all pictures.
        progress: called after every step.
    """
    pictures = []
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise ValueError(f"a share of the steps must be in [0, 1], got {fraction}")
        switch = Switch(switch_prompt, 1 - fraction)
        pictures.append(cascade(prompt, seed=seed, switch=switch, progress=progress).images[0])
    return pictures


Call = tuple[float, list[Float[Tensor, "k h w"]]]
"""The noise level of a network call, and what each cross-attention layer did in it."""


@contextmanager
def _watch(denoiser: nn.Module) -> Iterator[list[Call]]:
    """The calls of the networks in `denoiser` while the context lasts; of the last sample of each batch."""
    calls: list[Call] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls.append((float(args[1][-1]), []))

    def attended(module: nn.Module, args: tuple[Tensor, Context], out: Tensor) -> None:
        assert isinstance(module, CrossAttention)
        x, context = args
        one = Context(context.tokens[-1:], context.bias[-1:], None if context.paint is None else context.paint[-1:])
        weights = module.probabilities(x[-1:], one)[0].float().mean(0)
        calls[-1][1].append(weights.T.unflatten(1, (x.shape[-2], x.shape[-1])).cpu())

    handles = [m.register_forward_pre_hook(enter) for m in denoiser.modules() if isinstance(m, Preconditioned)]
    handles += [m.register_forward_hook(attended) for m in denoiser.modules() if isinstance(m, CrossAttention)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _mean(layers: Sequence[Float[Tensor, "k _ _"]], size: tuple[int, int]) -> Float[Tensor, "k h w"]:
    """The mean over layers, at the resolution of the finest."""
    return torch.stack([F.interpolate(layer[None], size, mode="bilinear")[0] for layer in layers]).mean(0)


def _tokens(cascade: Cascade, prompt: str, denoiser: nn.Module) -> list[Token]:
    """What the keys of the context are, in its order."""
    from ediffi.pipeline.prompt import parse

    text = parse(prompt).text
    network = next(m for m in denoiser.modules() if isinstance(m, Preconditioned)).network
    tokens = [Token(NULL, NULL)]
    for name in network.embedding.tokens:  # type: ignore[union-attr]
        reader = cascade.readers.get(name)
        if isinstance(reader, TextEncoder):
            tokens += [Token(name, piece) for piece in reader.token_strings(text)]
    return tokens
