"""Cross-attention while an image is sampled: which words each pixel attends to, at which noise (eDiff-I, figure 3).

Hooks watch the networks of a cascade; they change nothing of how it samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.prompt import parse
from ediffi.pipeline.sampling import Progress
from ediffi.registry.denoisers.attention import Context, CrossAttention
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.types import TextEncoder

NULL = "null"
"""The source of the learned null token."""


@dataclass(frozen=True)
class Token:
    """A key of the cross-attention: a token of a source, or the null token."""

    source: str
    text: str


@dataclass(frozen=True)
class Attention:
    """The cross-attention of one image over its sampling."""

    image: Image.Image  # after the watched stage
    tokens: list[Token]  # the k keys, the null token first
    sigmas: list[float]  # noise level of each of the s network calls
    maps: Float[Tensor, "s k h w"]  # attention of each pixel, mean over heads and layers; sums to 1 over k

    def shares(self) -> dict[str, Float[Tensor, " s"]]:
        """The share of all attention that each source gets at each noise level."""
        means, sources = self.maps.mean((2, 3)), [token.source for token in self.tokens]
        return {one: means[:, [k for k, s in enumerate(sources) if s == one]].sum(1) for one in dict.fromkeys(sources)}

    def of(self, word: str) -> Float[Tensor, "s h w"]:
        """The map of a word: the sum over all tokens with this text, of every source; ValueError if there is none."""
        chosen = [k for k, token in enumerate(self.tokens) if token.text.casefold() == word.casefold()]
        if not chosen:
            raise ValueError(f"no token is {word!r}; there are {', '.join(self.words())}")
        return self.maps[:, chosen].sum(1)

    def words(self) -> list[str]:
        """The texts of the tokens in order, each once, the null token first."""
        return list(dict.fromkeys(token.text for token in self.tokens))


def attention_maps(
    cascade: Cascade,
    prompt: str,
    options: SamplingOptions = SamplingOptions(),  # noqa: B008  (frozen)
    stage: str | None = None,
    progress: Progress | None = None,
) -> Attention:
    """Sample one image and record the cross-attention of a stage (the base stage by default), conditional half only.

    Later stages are not sampled. ValueError: there is no such stage, or it has no cross-attention.
    """
    watched = cascade.up_to(stage or cascade.stages[0].name)
    denoiser = watched.stages[-1].denoiser
    with _watch(denoiser) as calls:
        made = watched.generate(prompt, options, progress)
    sigmas = [sigma for sigma, layers in calls if layers]
    if not sigmas:
        raise ValueError(f"stage {watched.stages[-1].name!r} has no cross-attention to watch")
    finest = max((layer.shape[-2:] for _, layers in calls for layer in layers), key=lambda size: size[0])
    maps = torch.stack(
        [
            torch.stack([F.interpolate(layer[None], finest, mode="bilinear")[0] for layer in layers]).mean(0)
            for _, layers in calls
            if layers
        ]
    )
    return Attention(made.images[0], _tokens(watched, prompt, denoiser), sigmas, maps)


Call = tuple[float, list[Float[Tensor, "k h w"]]]
"""The noise level of a network call, and the attention of each layer in it."""


@contextmanager
def _watch(denoiser: nn.Module) -> Iterator[list[Call]]:
    """The calls of the networks in `denoiser` inside the block, for the last sample of each batch.

    Guidance puts the conditional half last in the batch, so the last sample is a conditional one.
    """
    calls: list[Call] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls.append((float(args[1][-1]), []))

    def attended(module: nn.Module, args: tuple[Tensor, Context], out: Tensor) -> None:
        assert isinstance(module, CrossAttention)
        x, context = args
        weights = module.probabilities(x[-1:], context[-1:])[0].float().mean(0)
        calls[-1][1].append(weights.T.unflatten(1, (x.shape[-2], x.shape[-1])).cpu())

    handles = [m.register_forward_pre_hook(enter) for m in denoiser.modules() if isinstance(m, Preconditioned)]
    handles += [m.register_forward_hook(attended) for m in denoiser.modules() if isinstance(m, CrossAttention)]
    try:
        with torch.compiler.set_stance("force_eager"):  # a compiled network does not see new hooks
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def _tokens(cascade: Cascade, prompt: str, denoiser: nn.Module) -> list[Token]:
    # In the order of the context: the null token, then the sources as the network joins them.
    text = parse(prompt).text
    network = next(m for m in denoiser.modules() if isinstance(m, Preconditioned)).network
    tokens = [Token(NULL, NULL)]
    for name in network.embedding.tokens:  # type: ignore[union-attr]
        encoder = cascade.encoders.get(name)
        if isinstance(encoder, TextEncoder):
            tokens += [Token(name, string) for string in encoder.token_strings(text)]
    return tokens
