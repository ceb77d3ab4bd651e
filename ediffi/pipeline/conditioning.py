"""Prompts, style images and painted regions become the `Conditioning` of a batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from ediffi.diffusion.layout import Region
from ediffi.diffusion.paint import paint
from ediffi.io.devices import out_of_memory
from ediffi.pipeline.prompt import Prompt, parse
from ediffi.pipeline.stage import Stage
from ediffi.pipeline.style import Style
from ediffi.registry.denoisers.conditioning import widths
from ediffi.registry.encoders import reads_text, spec_of_source
from ediffi.registry.types import Conditioning, Embedding, Encoder, TextEncoder

Encoders = Mapping[str, Encoder]
"""The encoders of a model, by source."""

_SHOWN = 80
"""Characters of a prompt's end that a message shows."""


def text_encoders(encoders: Encoders) -> dict[str, Encoder]:
    """The encoders that read the prompt, by source."""
    return {name: encoder for name, encoder in encoders.items() if reads_text(encoder)}


def image_encoders(encoders: Encoders) -> dict[str, Encoder]:
    """The encoders that read a style image, by source."""
    return {name: encoder for name, encoder in encoders.items() if spec_of_source(name).reads == "image"}


def check_sources(encoders: Encoders, stages: Sequence[Stage], styled: bool) -> None:
    """ValueError: a stage reads a source of prompts, or of style images if `styled`, that no encoder makes. A network
    takes a source that is missing for a dropped one, so each prompt would be the same image."""
    for stage in stages:
        for source in widths(stage.denoiser):
            if source not in encoders and (styled or spec_of_source(source).reads == "text"):
                raise ValueError(f"stage {stage.name!r} reads {source}, and the model has no encoder of it")


def unknown_words(encoders: Encoders, text: str) -> list[str]:
    """The words of a prompt that are in no encoder's vocabulary, in order; only of encoders that have one."""
    lists = [encoder.unknown_words(text) for encoder in encoders.values() if hasattr(encoder, "unknown_words")]
    return [word for word in (lists[0] if lists else []) if all(word in words for words in lists)]


def prompt_notices(model: str, encoders: Encoders, prompts: Sequence[str]) -> list[str]:
    """What of prompts the encoders of a model do not read: unknown words, and the ends of prompts that are too long."""
    texts, notices = [parse(prompt).text for prompt in prompts], []
    if unknown := list(dict.fromkeys(word for text in texts for word in unknown_words(encoders, text))):
        notices.append(f"ignored, not in the vocabulary of {model}: {', '.join(unknown)}")
    for name, encoder in text_encoders(encoders).items():
        if isinstance(encoder, TextEncoder):
            ends = filter(None, map(encoder.truncated_text, texts))
            notices += [f"too long for {name}, which does not read: {_beginning(end)}" for end in ends]
    return notices


def _beginning(text: str) -> str:
    """A text for a message, the beginning alone of a long one."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r} and so on, {len(text):,} characters"


def encode_each(
    encoders: Encoders,
    device: torch.device,
    prompts: Sequence[str],
    style: Style | Sequence[Style | None] | None = None,
    regions: Sequence[Region] | Sequence[Sequence[Region]] = (),
) -> Conditioning:
    """The conditioning of prompts, with a style image and painted regions for all, or for each; an image each of one
    prompt is that prompt once. Raises as `encode_prompts`."""
    styles = list(style) if isinstance(style, Sequence) else [style] * len(prompts)
    layouts = [regions] * len(prompts) if all(isinstance(one, Region) for one in regions) else list(regions)
    inputs: list[Any] = list(zip(prompts, styles, layouts, strict=True))
    keys = [(prompt, id(style), id(layout)) for prompt, style, layout in inputs]
    each = dict(zip(keys, inputs, strict=True))
    fewer = f"less is needed with a batch of fewer than {len(each)} prompts (batch_size)"
    with out_of_memory("an encoder", fewer if len(each) > 1 else "no option lowers it further"):
        texts, used, areas = zip(*each.values(), strict=True)
        images = [None if one is None else one.image for one in used]
        cond = encode_prompts(encoders, texts, images, areas).to(device, torch.float32)  # of encoders in bfloat16 too
    order = {key: row for row, key in enumerate(each)}
    return cond if list(order) == keys else cond[[order[key] for key in keys]]


def rows(cond: Conditioning, prompts: int, images: int) -> Conditioning:
    """The conditioning of each image, of one that has a row for each, or for each prompt; ValueError: it has others."""
    if cond.batch_size == images:
        return cond
    if cond.batch_size != prompts:
        raise ValueError(f"cond has {cond.batch_size} rows; it must have one for each of {prompts} prompts, or images")
    return cond[[prompt for prompt in range(prompts) for _ in range(images // prompts)]]


@torch.inference_mode()
def encode_prompts(
    encoders: Encoders,
    prompts: Sequence[str],
    styles: Sequence[Image.Image | None] = (),
    layouts: Sequence[Sequence[Region]] = (),
) -> Conditioning:
    """The conditioning of a batch of prompts, each with a style image and a layout of its own, if there are any.

    ValueError: a prompt is empty or too long, an encoder cannot weight words, no encoder reads images, or a painted
    phrase is not in a prompt.
    """
    parsed = [parse(prompt) for prompt in prompts]
    texts = [prompt.text for prompt in parsed]
    readers = text_encoders(encoders)
    sources = {name: _weighted(encoder(texts), encoder, parsed) for name, encoder in readers.items()}
    if any(style is not None for style in styles):
        sources |= _styles(encoders, styles)
    return Conditioning(sources, paint=paint(readers, texts, layouts) if any(layouts) else None)


def _styles(encoders: Encoders, styles: Sequence[Image.Image | None]) -> dict[str, Embedding]:
    """The embeddings of the style image of each prompt, dropped where it has none."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    if not (viewers := image_encoders(encoders)):
        raise ValueError("the model has no encoder that reads images, so it cannot take a style image")
    each = list({id(style): style for style in styles if style is not None}.values())
    rows = [next((k for k, one in enumerate(each) if one is style), 0) for style in styles]
    none = torch.tensor([style is None for style in styles])
    found = {}
    for name, encoder in viewers.items():
        seen = Embedding.cat([encoder(pil_to_tensor(one)[None].float() / 127.5 - 1) for one in each])[rows]
        found[name] = seen.drop(none.to(seen.mask.device)) if none.any() else seen
    return found


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
