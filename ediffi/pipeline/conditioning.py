"""Prompts, style images and painted regions become the `Conditioning` of a batch."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from ediffi.diffusion.layout import Region
from ediffi.diffusion.paint import paint
from ediffi.pipeline.prompt import Prompt, parse
from ediffi.registry.encoders import reads_text, spec_of_source
from ediffi.registry.types import Conditioning, Embedding, Encoder, TextEncoder

Encoders = Mapping[str, Encoder]
"""The encoders of a model, by source."""


def text_encoders(encoders: Encoders) -> dict[str, Encoder]:
    """The encoders that read the prompt, by source."""
    return {name: encoder for name, encoder in encoders.items() if reads_text(encoder)}


def image_encoders(encoders: Encoders) -> dict[str, Encoder]:
    """The encoders that read a style image, by source."""
    return {name: encoder for name, encoder in encoders.items() if spec_of_source(name).reads == "image"}


def unknown_words(encoders: Encoders, text: str) -> list[str]:
    """The words of a prompt that are in no encoder's vocabulary, in order; only of encoders that have one."""
    lists = [encoder.unknown_words(text) for encoder in encoders.values() if hasattr(encoder, "unknown_words")]
    return [word for word in (lists[0] if lists else []) if all(word in words for words in lists)]


@torch.inference_mode()
def encode_prompts(
    encoders: Encoders, prompts: Sequence[str], style: Image.Image | None = None, regions: Sequence[Region] = ()
) -> Conditioning:
    """The conditioning of a batch of prompts, with one style image and one layout for all of them.

    ValueError: a prompt is empty or too long, an encoder cannot weight words, no encoder reads images, or a painted
    phrase is not in a prompt.
    """
    parsed = [parse(prompt) for prompt in prompts]
    texts = [prompt.text for prompt in parsed]
    readers = text_encoders(encoders)
    sources = {name: _weighted(encoder(texts), encoder, parsed) for name, encoder in readers.items()}
    if style is not None:
        from torchvision.transforms.v2.functional import pil_to_tensor

        if not (viewers := image_encoders(encoders)):
            raise ValueError("the model has no encoder that reads images, so it cannot take a style image")
        images = pil_to_tensor(style)[None].float() / 127.5 - 1
        for name, encoder in viewers.items():
            sources[name] = encoder(images).apply(lambda t: t.expand(len(texts), *t.shape[1:]))
    return Conditioning(sources, paint=paint(readers, texts, [regions] * len(texts)) if regions else None)


def _weighted(embedding: Embedding, encoder: Encoder, prompts: Sequence[Prompt]) -> Embedding:
    """The embedding with the weights that the prompts give their words."""
    if not any(prompt.weights for prompt in prompts):
        return embedding
    if not isinstance(encoder, TextEncoder):
        raise ValueError(f"words cannot be weighted: the encoder {type(encoder).__name__} is not a TextEncoder")
    weight = torch.ones_like(embedding.tokens[..., 0])
    for row, prompt in enumerate(prompts):
        for span in prompt.weights:
            weight[row, list(encoder.token_range(prompt.text, span.start, span.end))] = span.weight
    return dataclasses.replace(embedding, weight=weight)
