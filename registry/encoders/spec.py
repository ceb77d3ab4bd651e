"""What all encoders share: the declaration by which the package knows one without building it, and frozen weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ediffi.registry.core import Factory


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes that follow from a factory's arguments, known without loading weights."""

    parameters: int  # number of them
    width: int  # of a token
    pooled_width: int | None = None  # of the pooled embedding; None if there is none


@dataclass(frozen=True)
class EncoderSpec:
    """The declaration of an encoder.

    Attributes:
        source: name of its embeddings in shards, in `dropout`, and in a denoiser's `tokens` and `pooled`.
        reads: "text" for captions and prompts; "image" for the training image, or a style image at inference.
        max_tokens: tokens of an input that fills the encoder.
        caption_tokens: tokens of a caption of 10 to 15 words, as in COCO and most of the web; for planning.
        dropout: probability of dropping the source in training, unless the recipe says it (classifier-free guidance
            needs some); None for that of the paper's T5, if it reads texts, or of its CLIP image encoder.
        sizes: takes the factory's arguments, all of them; None if the parameters cannot be counted without loading.
        weights: takes them too; the folder or the repository of the Hub that the weights come from, and the revision;
            None if the arguments `path` and `revision` say it.
    """

    source: str
    reads: Literal["text", "image"] = "text"
    max_tokens: int = 113
    caption_tokens: int = 20
    dropout: float | None = None
    sizes: Callable[..., EncoderSizes] | None = None
    weights: Callable[..., tuple[str, str | None]] | None = None


def declares(spec: EncoderSpec) -> Callable[[Factory], Factory]:
    """Decorate the factory of an encoder with its declaration, which `ediffi.registry.encoders.spec` reads."""

    def decorate(factory: Factory) -> Factory:
        vars(factory)["spec"] = spec
        return factory

    return decorate


def on_meta(name: str, build: Callable[[], nn.Module]) -> Any:
    """The module that `build` makes on the meta device: it has shapes, and takes no memory; ValueError has `name`."""
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:  # each library has its own for a config that it cannot build
        raise ValueError(f"the config of {name} cannot be built: {type(error).__name__}: {error}") from error


class Frozen(nn.Module):
    """An encoder around a model whose weights get no gradients, and which stays in evaluation mode."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device


def text_list(texts: Sequence[str]) -> list[str]:
    """The texts; ValueError for none, and for one string, whose letters would count as texts."""
    if isinstance(texts, str) or not texts:
        raise ValueError(f"expected a list of at least one text, not {texts!r}")
    return list(texts)
