"""The encoders by name: frozen networks that turn texts or images into an `Embedding`.

    from ediffi.registry import encoders
    encoders.names("clip*")
    encoders.create("t5", path="some/folder")

A built encoder has `width` (of a token), `pooled_width` (None without a pooled vector), `max_tokens` and `dtype`. What
has to be known before it is built, its factory declares: `encoders.spec("t5_xxl").max_tokens`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ediffi.registry.core import Registry, variant
from ediffi.registry.encoders.clip import ClipImageEncoder, ClipTextEncoder, clip_sizes
from ediffi.registry.encoders.clip_files import clip_source, load_clip, load_clip_named
from ediffi.registry.encoders.spec import EncoderSizes, EncoderSpec, declares
from ediffi.registry.encoders.text import (
    MINILM_SIZES,
    PAPER_TOKENS,
    HfTextEncoder,
    Pooling,
    minilm_folder,
    text_sizes,
)
from ediffi.registry.types import Encoder

__all__ = ["ClipImageEncoder", "ClipTextEncoder", "EncoderSizes", "EncoderSpec", "HfTextEncoder", "declares"]
# Re-exported; the functions below are public too.

T5_REVISION = "3db67ab1af984cf10548a73467f0e5bca2aaaeb2"
"""Commit of google/t5-v1_1-xxl."""

REGISTRY: Registry[Encoder] = Registry("encoders")
names, create, describe, register = REGISTRY.names, REGISTRY.create, REGISTRY.describe, REGISTRY.register

# Dropout: eDiff-I, section 4.2.
T5_SPEC = EncoderSpec("t5", "text", PAPER_TOKENS, 20, dropout=0.25, sizes=text_sizes)
MINILM_SPEC = replace(T5_SPEC, sizes=lambda **_: MINILM_SIZES, weights=lambda **_: (str(minilm_folder()), None))
CLIP_TEXT_SPEC = EncoderSpec("clip_text", "text", 77, 18, dropout=0.2, sizes=partial(clip_sizes, "text"))
CLIP_IMAGE_SPEC = EncoderSpec("clip_image", "image", 1, 1, dropout=0.9, sizes=partial(clip_sizes, "image"))
L14_TEXT_SPEC = replace(CLIP_TEXT_SPEC, weights=clip_source)
L14_IMAGE_SPEC = replace(CLIP_IMAGE_SPEC, weights=clip_source)


def spec(name: str) -> EncoderSpec:
    """The declaration of the encoder `name`; one without a declaration has the default lengths, which are T5's."""
    declared: EncoderSpec = getattr(REGISTRY.factory(name), "spec", EncoderSpec(name))
    return declared


def spec_of_source(source: str) -> EncoderSpec:
    """The declaration of the encoder named like the source, or of the first that declares it, or the default one."""
    if source in REGISTRY:
        return spec(source)
    declared = (spec(name) for name in REGISTRY)
    return next((one for one in declared if one.source == source), EncoderSpec(source))


def dropout(source: str) -> float:
    """Probability of dropping a source in training: what its encoder declares, or that of the paper's for its kind."""
    found = spec_of_source(source)
    paper = T5_SPEC if found.reads == "text" else CLIP_IMAGE_SPEC
    declared = paper.dropout if found.dropout is None else found.dropout
    assert declared is not None
    return declared


def reads_text(encoder: Encoder) -> bool:
    """Whether a built encoder reads texts; it can `tokenize` them then. Otherwise it reads images."""
    return hasattr(encoder, "tokenize")


@register
@declares(T5_SPEC)
def t5(path: str, max_tokens: int = PAPER_TOKENS) -> HfTextEncoder:
    """A T5 encoder from a local folder; computes in float32.

    Args:
        path: folder with config.json, model.safetensors and the tokenizer, as transformers writes them.
        max_tokens: longer texts are truncated.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file of the folder is broken.
    """
    return HfTextEncoder.from_pretrained(Path(path), max_tokens)


@register
@declares(T5_SPEC)
def t5_xxl(
    path: str = "google/t5-v1_1-xxl",
    max_tokens: int = PAPER_TOKENS,
    revision: str | None = T5_REVISION,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> HfTextEncoder:
    """T5-XXL, the paper's encoder (eDiff-I, section 4.2): 113 tokens of width 4096.

    Args:
        path: "organisation/name" of the Hub, or a local folder, with weights in one file or in shards. Only safetensors
            are read, and google's own repository has none: save a copy of it as safetensors, and give its folder.
        max_tokens: longer texts are truncated.
        revision: branch, tag or commit of the Hub; pinned by default. Not used for a folder.
        dtype: precision to compute in; float16 overflows in T5 and is not offered.

    Raises:
        FileNotFoundError: the model is not cached and cannot be downloaded, or the folder is incomplete.
        ValueError: a file of the folder is broken.
    """
    return HfTextEncoder.from_pretrained(path, max_tokens, revision, getattr(torch, dtype))


@register
@declares(T5_SPEC)
def hf_text(
    path: str,
    max_tokens: int = PAPER_TOKENS,
    pooling: Pooling = "mean",
    revision: str | None = None,
    dtype: Literal["bfloat16", "float32"] = "float32",
) -> HfTextEncoder:
    """Any text encoder of transformers (BERT and its kin, the encoder half of a T5), in the place of the T5.

    Its source is "t5", so networks, dropout and recipes that name it need no change but the width of its tokens.

    Args:
        path: "organisation/name" of the Hub, or a local folder: config.json, the tokenizer, and weights as safetensors.
        max_tokens: longer texts are truncated; at most what the model can read.
        pooling: the pooled vector of a text: the mean of its tokens, its first token, or none.
        revision: branch, tag or commit of the Hub. Not used for a folder.
        dtype: precision to compute in.

    Raises:
        FileNotFoundError: the model is not cached and cannot be downloaded, or the folder is incomplete.
        ValueError: a file of the folder is broken, or the model is of another kind.
    """
    return HfTextEncoder.from_pretrained(path, max_tokens, revision, getattr(torch, dtype), pooling)


@register
@declares(MINILM_SPEC)
@variant(hf_text, without=["path", "revision"])
def minilm(**arguments: Any) -> HfTextEncoder:
    """all-MiniLM-L6-v2 (Wang et al., arXiv 2002.10957), in the place of the T5: tokens of width 384. Extra `minilm`."""
    return hf_text(str(minilm_folder()), **arguments)


@register
@declares(CLIP_TEXT_SPEC)
def clip_text(path: str) -> ClipTextEncoder:
    """The text tower of a CLIP from a local folder.

    Args:
        path: folder with open_clip_config.json, open_clip_model.safetensors and the tokenizer, as open_clip reads them.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file of the folder is broken.
    """
    return ClipTextEncoder(*load_clip(path))


@register
@declares(CLIP_IMAGE_SPEC)
@variant(clip_text)
def clip_image(**arguments: Any) -> ClipImageEncoder:
    """The image tower of a CLIP from a local folder; shares the model with `clip_text` of the same folder."""
    return ClipImageEncoder(load_clip(arguments["path"])[0])


@register
@declares(L14_TEXT_SPEC)
def clip_l14_text(pretrained: str = "openai", path: str | None = None, revision: str | None = None) -> ClipTextEncoder:
    """The text tower of CLIP ViT-L/14, the paper's encoder (eDiff-I, section 4.2): 77 tokens of width 768.

    Args:
        pretrained: open_clip's tag of the weights. It sets the activation (QuickGELU for OpenAI's) and the repository
            of the Hub (timm/vit_large_patch14_clip_224.openai for OpenAI's), of which only open_clip_model.safetensors
            is read. Pickles are not read.
        path: a local folder with the weights, or "organisation/name" of the Hub, instead. An open_clip_config.json
            beside them is used, as in `clip_text`; without one the network is ViT-L-14 with the tag's settings.
        revision: branch, tag or commit of the Hub; by default a pinned commit for OpenAI's, the newest for others.

    Raises:
        FileNotFoundError: the weights are not cached and cannot be downloaded, or the folder is incomplete.
        ValueError: a file is broken, or open_clip has no such tag.
    """
    return ClipTextEncoder(*load_clip_named("ViT-L-14", pretrained, path, revision))


@register
@declares(L14_IMAGE_SPEC)
@variant(clip_l14_text)
def clip_l14_image(**arguments: Any) -> ClipImageEncoder:
    """The image tower of CLIP ViT-L/14, the paper's encoder (eDiff-I, section 4.2): one token of width 768.

    Shares the model with `clip_l14_text` of the same arguments.
    """
    return ClipImageEncoder(load_clip_named("ViT-L-14", **arguments)[0])
