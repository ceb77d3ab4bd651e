"""What the rest of the package knows of an encoder without building it: its factory declares an `EncoderSpec`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes that follow from a factory's arguments, known without loading weights.

    Attributes:
        parameters: how many it has.
        width: width of a token.
        pooled_width: width of the pooled embedding; None if there is none.
    """

    parameters: int
    width: int
    pooled_width: int | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """The declaration of an encoder.

    Attributes:
        source: name of its embeddings in shards, in `dropout`, and in a denoiser's `tokens` and `pooled`.
        reads: "text" for captions and prompts; "image" for the training image, or a style image at inference.
        max_tokens: tokens of an input that fills the encoder.
        caption_tokens: tokens of a caption of 10 to 15 words, as in COCO and most of the web; for planning.
        dropout: default probability of dropping the source in training (classifier-free guidance needs some).
        sizes: takes the factory's arguments, all of them; None if the parameters cannot be counted without loading.
        weights: takes them too; the folder or the repository of the Hub that the weights come from, and the revision;
            None if the arguments `path` and `revision` say it.
    """

    source: str
    reads: Literal["text", "image"] = "text"
    max_tokens: int = 113
    caption_tokens: int = 20
    dropout: float = 0.0
    sizes: Callable[..., EncoderSizes] | None = None
    weights: Callable[..., tuple[str, str | None]] | None = None


def declares(spec: EncoderSpec) -> Callable[[Factory], Factory]:
    """Decorate the factory of an encoder with its declaration, which `spec_of` reads."""

    def decorate(factory: Factory) -> Factory:
        vars(factory)["spec"] = spec
        return factory

    return decorate


def on_meta(name: str, build: Callable[[], nn.Module]) -> Any:
    """The module that `build` makes on the meta device: it has shapes, and takes no memory.

    Raises:
        ValueError: it cannot be built; the message begins with `name`.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:  # each library has its own for a config that it cannot build
        raise ValueError(f"the config of {name} cannot be built: {type(error).__name__}: {error}") from error
